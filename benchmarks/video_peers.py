"""How fast are the package's Transformers beside the well-known implementations with the same weights?

    python -m benchmarks.video_peers [--rounds 7] [--only "ViT-B/16" ...]
                                     [--output benchmarks/results/video_peers.json]

A pair is one of our models and its peer, full width and depth, with the same random weights: outputs and the gradient
at the input are asserted equal (to 1e-4, and to 1e-3 of the gradient's norm) before anything is timed. Then they run in
turn, and change places after every round: "forward" without gradients, and "forward+backward" to all parameters and the
input, both in evaluation mode, so that no dropout makes them differ. "ratio" is the peer's processor time over ours in
the same round, above 1 where ours is faster: median, lowest and highest round, on one thread. Memory is what autograd
keeps for the backward pass of one forward pass, parameters left out: exact, from one real pass.

Clips are shorter or smaller than the published ones where a core would take too long; "clip" says what was read, and
"published" what the model was made for. At full size attention's products weigh more. The peers compute attention as
they do by default, "peer attention": by torch's fused kernel ("sdpa"), or with the weights written out ("eager"), which
is all that Timesformer and torchvision's MViT have; ours is always fused here. --only measures some pairs and leaves
the others in the output file as they are. Book: chapters 5, 6, 9, 10 and 11.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.provenance import provenance
from benchmarks.space_time_cost import kept_bytes
from benchmarks.torchvision_operators import define_operators
from minirsa.models import deit, mvit, timesformer, vit, vivit

PASSES = ("forward", "forward+backward")
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
"""Wider: where two numbers under a max pooling differ by rounding alone, the gradient may go to either (MViT)."""


@dataclass(frozen=True)
class Sizes:
    """What both models of a pair are built for. frames 0: an image model."""

    frames: int
    size: int
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    classes: int = 400

    @property
    def clip(self) -> tuple[int, ...]:
        """(1, 3, T, H, W), or (1, 3, H, W)."""
        return (1, 3, *([self.frames] if self.frames else []), self.size, self.size)

    def ours(self) -> dict[str, int]:
        """Keyword arguments of our builders."""
        names = {"num_classes": self.classes, "image_size": self.size, "width": self.width, "depth": self.depth}
        return names | {"heads": self.heads, "hidden": self.hidden}

    def transformers(self) -> dict[str, object]:
        """Keyword arguments of transformers' configurations."""
        return {
            "image_size": self.size,
            "num_frames": self.frames,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": self.hidden,
            "num_labels": self.classes,
            "layer_norm_eps": 1e-6,
        }

    def timm(self) -> dict[str, object]:
        """Keyword arguments of timm's Vision Transformers."""
        return {
            "img_size": self.size,
            "patch_size": self.patch,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            "mlp_ratio": self.hidden / self.width,
            "num_classes": self.classes,
        }


class Logits(nn.Module):
    """A video model of transformers as a function of (B, 3, T, H, W)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Tensor:
        return self.model(video.transpose(1, 2)).logits


def randomize(model: nn.Module) -> nn.Module:
    """Noise on every parameter, since those that start at zero would hide differences; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def timesformer_pair(scheme: str, sizes: Sizes, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours and transformers' TimeSformer."""
    import transformers

    kind = {"divided": "divided_space_time", "joint": "joint_space_time"}[scheme]
    options = {**sizes.transformers(), "patch_size": sizes.patch, "attention_type": kind}
    peer = randomize(transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**options)))
    save_file(peer.state_dict(), folder / "peer.safetensors")
    own = {**sizes.ours(), "num_frames": sizes.frames, "patch_size": sizes.patch, "attention": scheme}
    return timesformer.from_pretrained(folder / "peer.safetensors", **own), Logits(peer)


def vivit_pair(sizes: Sizes, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours and transformers' ViViT, model 1, tubelets of two frames."""
    import transformers

    tubelet = [2, sizes.patch, sizes.patch]
    options = {**sizes.transformers(), "tubelet_size": tubelet, "hidden_act": "gelu_fast"}
    peer = randomize(transformers.VivitForVideoClassification(transformers.VivitConfig(**options)))
    transformers.utils.logging.disable_progress_bar()
    peer.save_pretrained(folder)  # under the names that published files have
    own = {**sizes.ours(), "num_frames": sizes.frames, "tubelet": tuple(tubelet)}
    return vivit.from_pretrained(folder / "model.safetensors", **own), Logits(peer)


def mvit_pair(sizes: Sizes, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's MViT-B 16x4, which exists at its published size only."""
    from torchvision.models.video import mvit_v1_b

    if (sizes.frames, sizes.size) != (16, 224):
        raise ValueError(f"expected 16 frames of 224 for MViT-B 16x4, got {sizes.frames} of {sizes.size}")
    peer = randomize(mvit_v1_b(num_classes=sizes.classes))
    save_file(peer.state_dict(), folder / "peer.safetensors")
    return mvit.from_pretrained(folder / "peer.safetensors", num_classes=sizes.classes), peer


def vit_pair(sizes: Sizes, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's ViT."""
    import timm

    peer = randomize(timm.models.vision_transformer.VisionTransformer(**sizes.timm()))
    save_file(peer.state_dict(), folder / "peer.safetensors")
    own = {**sizes.ours(), "patch_size": sizes.patch}
    return vit.from_pretrained(folder / "peer.safetensors", vit.VisionTransformer, **own), peer


def distilled_pair(sizes: Sizes, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's DeiT with the distillation token."""
    import timm

    peer = randomize(timm.models.deit.VisionTransformerDistilled(**sizes.timm()))
    save_file(peer.state_dict(), folder / "peer.safetensors")
    own = {**sizes.ours(), "patch_size": sizes.patch}

    def build(distilled: bool, **options) -> nn.Module:
        return deit.DistilledVisionTransformer(**options)

    return deit.from_pretrained(folder / "peer.safetensors", build, **own), peer


@dataclass(frozen=True)
class Pair:
    """build(sizes, folder for the weights) -> ours, peer; sizes: what is timed; published: the model's own clip."""

    build: Callable[[Sizes, Path], tuple[nn.Module, nn.Module]]
    sizes: Sizes
    published: str
    library: str


PAIRS: dict[str, Pair] = {
    "TimeSformer divided": Pair(
        lambda *args: timesformer_pair("divided", *args), Sizes(8, 112), "8 x 224", "transformers"
    ),
    "TimeSformer joint": Pair(lambda *args: timesformer_pair("joint", *args), Sizes(8, 112), "8 x 224", "transformers"),
    "ViViT model 1": Pair(vivit_pair, Sizes(16, 112), "32 x 224", "transformers"),
    "MViT-B 16x4": Pair(mvit_pair, Sizes(16, 224), "16 x 224", "torchvision"),
    "ViT-B/16": Pair(vit_pair, Sizes(0, 224, classes=1000), "224", "timm"),
    "DeiT-B distilled": Pair(distilled_pair, Sizes(0, 224, classes=1000), "224", "timm"),
}


def peer_attention(peer: nn.Module) -> str:
    """ "sdpa" where the peer uses torch's fused attention, "eager" where it writes the weights out."""
    if isinstance(peer, Logits):
        return peer.model.config._attn_implementation
    flags = {module.fused_attn for module in peer.modules() if hasattr(module, "fused_attn")}  # timm
    return "sdpa" if flags == {True} else "eager"


def run(model: nn.Module, clip: Tensor, which: str) -> float:
    """Processor time of one pass; the gradients are given back."""
    start = time.process_time()
    if which == "forward":
        with torch.no_grad():
            model(clip)
        return time.process_time() - start
    model(clip).square().sum().backward()
    taken = time.process_time() - start
    model.zero_grad()
    clip.grad = None
    return taken


def check_equal(ours: nn.Module, peer: nn.Module, clip: Tensor) -> dict[str, float]:
    """Largest difference of logits, and the norm of the difference of the gradients at the input, relative to theirs.

    The norm, since a max pooling that prefers the other of two almost equal numbers moves single gradients. Raises
    AssertionError if they are above `TOLERANCE` and `GRADIENT_TOLERANCE`, or if the logits do not feel the input.
    """
    results = []
    for model in (ours, peer):
        logits = model(clip)
        (gradient,) = torch.autograd.grad(logits.square().sum(), clip)
        results.append((logits.detach(), gradient))
    (logits, gradient), (expected, expected_gradient) = results
    found = {
        "logits": (logits - expected).abs().max().item(),
        "gradient": ((gradient - expected_gradient).norm() / expected_gradient.norm()).item(),
    }
    if not (found["logits"] <= TOLERANCE and found["gradient"] <= GRADIENT_TOLERANCE):
        raise AssertionError(f"expected differences up to {TOLERANCE} and {GRADIENT_TOLERANCE}, got {found}")
    with torch.no_grad():
        felt = (ours(torch.zeros_like(clip)) - logits).abs().max().item()
    if felt < 100 * TOLERANCE:
        raise AssertionError(f"the logits change by {felt:.1e} only from one clip to another")
    return {key: float(f"{value:.1e}") for key, value in found.items()}


def summary(times: list[dict[str, float]]) -> dict[str, float]:
    """Rounds {"ours": s, "peer": s} -> median, lowest and highest of the peer's time over ours."""
    if not times:
        raise ValueError("expected at least one round")
    ratios = [taken["peer"] / taken["ours"] for taken in times]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def compare(name: str, pair: Pair, rounds: int) -> dict[str, object]:
    """A pair's row of the result."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = pair.build(pair.sizes, Path(folder))
    models = {"ours": ours.eval(), "peer": peer}
    counts = {side: sum(parameter.numel() for parameter in model.parameters()) for side, model in models.items()}
    if counts["ours"] != counts["peer"]:
        raise RuntimeError(f"{name}: expected as many parameters as the peer's {counts['peer']}, got {counts['ours']}")
    clip = torch.randn(pair.sizes.clip, requires_grad=True)
    row: dict[str, object] = {
        "model": name,
        "peer": f"{pair.library} {version(pair.library)}",
        "peer attention": peer_attention(peer),
        "clip": list(pair.sizes.clip),
        "published": pair.published,
        "params": counts["ours"],
        "largest difference": check_equal(ours, peer, clip),
        "kept bytes": {
            side: kept_bytes(lambda model=model: model(clip), model.parameters()) for side, model in models.items()
        },
        "rounds": rounds,
    }
    times: dict[str, list[dict[str, float]]] = {which: [] for which in PASSES}
    for index in range(rounds):
        order = list(models) if index % 2 else list(reversed(models))
        for which in PASSES:
            times[which].append({side: run(models[side], clip, which) for side in order})
    return row | {which: summary(taken) for which, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help=f"some of {list(PAIRS)}")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(PAIRS)
    if unknown:
        parser.error(f"expected some of {list(PAIRS)}, got {sorted(unknown)}")
    if options.rounds < 1:
        parser.error(f"expected at least one round, got {options.rounds}")
    torch.set_num_threads(1)
    define_operators()
    rows: dict[str, dict[str, object]] = {}
    if options.output and options.output.exists():
        rows = {row["model"]: row for row in json.loads(options.output.read_text())["rows"]}
    for name in options.only or PAIRS:
        rows[name] = compare(name, PAIRS[name], options.rounds)
        print(rows[name], flush=True)
        if options.output:
            found = [rows[name] for name in PAIRS if name in rows]
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"provenance": provenance(seed=0), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
