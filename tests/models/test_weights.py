"""Checkpoints that are no checkpoints, and maps that do not cover."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minirsa.models.weights import load_exactly, read_tensors, rename


class Trap:
    """Unpickling this would write a file: what weights_only must prevent."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"weight": Trap(tmp_path / "ran")}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth is not a readable checkpoint"):
        read_tensors(tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    with pytest.raises(ValueError, match=r"plain.pth is not a readable checkpoint"):
        read_tensors(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all, but some text"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not a readable checkpoint"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, name):
    tensors = {"weight": torch.arange(1000.0)}
    save = save_file if name.endswith("safetensors") else torch.save
    save(tensors, tmp_path / name)
    assert torch.equal(read_tensors(tmp_path / name)["weight"], tensors["weight"])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} is not a readable checkpoint"):
        read_tensors(tmp_path / name)


def test_a_missing_file_and_a_bare_tensor_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_tensors(tmp_path / "nowhere.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"expected a dictionary of tensors in .*tensor.pth, got Tensor"):
        read_tensors(tmp_path / "tensor.pth")


def test_rename_maps_drops_and_names_what_does_not_fit():
    theirs = {"a": torch.ones(1), "b": torch.zeros(1), "head": torch.zeros(2)}
    assert list(rename(theirs, {"first": "a", "second": "b"}, dropped=["head"])) == ["first", "second"]
    with pytest.raises(ValueError, match=r"1 missing \[c\], 2 unknown \[b, head\]"):
        rename(theirs, {"first": "a", "third": "c"})
    with pytest.raises(ValueError, match=r"0 missing \[\], 1 unknown \[head\]"):
        rename(theirs, {"first": "a", "second": "b"})


def test_load_exactly_refuses_gaps_and_leaves_the_model_as_it_was():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(ValueError, match=r"1 missing or unknown \[bias\]"):
        load_exactly(model, {"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"1 missing or unknown \[extra\]"):
        load_exactly(model, {"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"weight: expected a tensor of shape \(2, 2\), got \(2, 3\)"):
        load_exactly(model, {"bias": torch.zeros(2), "weight": torch.zeros(2, 3)})
    assert torch.equal(model.weight, before)
    load_exactly(model, {"weight": torch.zeros(2, 2)}, fresh=["bias"])
    assert (model.weight == 0).all()


@pytest.mark.parametrize("content", [b"", b"hello world\n", b".", b"<html></html>", b"version https://git-lfs\n"])
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable checkpoint") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_keys_that_are_no_names_are_refused(tmp_path):
    torch.save({1: torch.zeros(1), "a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="expected names as keys"):
        read_tensors(tmp_path / "weights.pth")
