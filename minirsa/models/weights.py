"""Published weights: read a checkpoint without running it, rename its tensors by an explicit map, load them exactly.

Nothing is guessed: a tensor that the map does not know, or one that is missing, stops the loading with its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

COUNTER = "num_batches_tracked"
"""Batch norm's step counter; checkpoints from before torch 0.4.1 have none, and evaluation does not use it."""


def read_tensors(path: str | PathLike[str]) -> dict[str, object]:
    """The dictionary stored in a checkpoint: safetensors by its suffix, torch's own format otherwise.

    torch files are read with `weights_only`, so no code in them runs.
    Raises FileNotFoundError, and ValueError naming the file if it is no such checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint can fail anywhere in the unpickler
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {text[0] if text else 'nothing to read'}"
        raise ValueError(f"{path} is not a readable checkpoint ({reason})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a dictionary of tensors in {path}, got {type(content).__name__}")
    if not all(isinstance(name, str) for name in content):
        keys = ", ".join(sorted(map(repr, content))[:3])
        raise ValueError(f"expected names as keys of the dictionary in {path}, got {keys}, ...")
    return dict(content)


def rename(
    tensors: Mapping[str, object], key_map: Mapping[str, str], *, dropped: Collection[str] = ()
) -> dict[str, Tensor]:
    """Tensors under our names: {ours: tensors[theirs]} for every pair of `key_map` {ours: theirs}.

    `dropped` names tensors of the checkpoint that are left out on purpose. Raises ValueError naming every tensor
    that is missing, and every one that is neither mapped nor dropped. Only batch norm's step counters may be
    missing; they are then left out.
    """
    missing = sorted(theirs for theirs in key_map.values() if theirs not in tensors)
    missing = [name for name in missing if not name.endswith(COUNTER)]
    unknown = sorted(set(tensors) - set(key_map.values()) - set(dropped))
    if missing or unknown:
        raise ValueError(
            "the checkpoint does not fit the model: "
            f"{len(missing)} missing {_some(missing)}, {len(unknown)} unknown {_some(unknown)}"
        )
    return {ours: tensors[theirs] for ours, theirs in key_map.items() if theirs in tensors}


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], *, fresh: Collection[str] = ()) -> None:
    """Fill the model's parameters and buffers, all but those named in `fresh`, which keep what they hold.

    Raises ValueError, with nothing loaded, for a name or a shape that does not fit: shape expected, shape got.
    """
    own = model.state_dict()
    needed = {name for name in own if name not in set(fresh) and not name.endswith(COUNTER)}
    wrong = sorted((needed - set(tensors)) | (set(tensors) - set(own)) | (set(tensors) & set(fresh)))
    if wrong:
        raise ValueError(f"expected the tensors of the model, {len(wrong)} missing or unknown {_some(wrong)}")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ValueError(f"{name}: expected a tensor of shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _some(names: list[str], most: int = 8) -> str:
    return f"[{', '.join(names[:most])}{', ...' if len(names) > most else ''}]"
