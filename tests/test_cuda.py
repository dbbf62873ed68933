"""What only a CUDA GPU can show: `make test PYTEST_ARGS=tests/test_cuda.py` on a machine that has one."""

import math
from pathlib import Path

import pytest
import torch

from minirsa.data import MotionConfig, MotionSet, read_clip
from minirsa.data.datasets import MotionDataset
from minirsa.layers import LocalSelfAttention, RelationalSelfAttention
from minirsa.models.rsanet import rsanet_r50
from minirsa.training import Recipe, fit, motion_batches
from minirsa.training.engine import train
from minirsa.training.recipes import load_recipe
from minirsa.training.runlog import read_log

CLIP = Path(__file__).parents[1] / "data_samples" / "moving_something_down.mp4"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")


@pytest.mark.parametrize("make", [
    lambda: RelationalSelfAttention(32, queries=4, kernel_size=(3, 5, 5)),
    lambda: RelationalSelfAttention(32, queries=4, kernel_size=(3, 3, 3), decomposed=False),
    lambda: RelationalSelfAttention(32, queries=4, kernel_size=(3, 5, 5), frames_at_once=2),
    lambda: LocalSelfAttention(32, heads=4, kernel_size=(3, 3, 3)),
])  # fmt: skip
def test_layers_agree_with_the_cpu_outputs_and_gradients(make):
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(2, 32, 4, 9, 7, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda"):
        layer, given = layer.to(device), x.to(device).requires_grad_()
        y = layer(given)
        results.append([t.cpu() for t in (y, *torch.autograd.grad(y.square().sum(), [given, *layer.parameters()]))])
    for cpu, cuda in zip(*results):
        torch.testing.assert_close(cpu, cuda, rtol=1e-8, atol=1e-8)


def test_one_training_step_of_rsanet_r50_in_bf16():
    torch.manual_seed(0)
    model = rsanet_r50(12, 8).cuda()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    clips, labels = MotionSet(4, MotionConfig(height=224, width=224), device="cuda").batch(range(4))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(clips), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True).step()
    assert any(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_motion_set_draws_the_same_clips_on_the_gpu():
    cpu, labels = MotionSet(12, MotionConfig()).batch(range(12))
    cuda, cuda_labels = MotionSet(12, MotionConfig(), device="cuda").batch(range(12))
    assert cuda.is_cuda
    assert torch.equal(labels, cuda_labels.cpu())
    torch.testing.assert_close(cpu, cuda.cpu(), rtol=0, atol=2e-3)


def test_small_net_trains_on_the_gpu():
    recipe = Recipe(steps=2, batch_size=4)
    model = rsanet_r50(12, 8, blocks=((), (), (1,), ()), keep=1.0, dropout=0.0).cuda()
    losses = fit(model, motion_batches(recipe, MotionConfig(height=64, width=64), device="cuda"), recipe)
    assert len(losses) == 2


def test_decord_reads_a_clip_after_torch_has_used_the_gpu():
    torch.ones(1, device="cuda").sum().item()
    assert read_clip(CLIP, [0, 8], backend="decord").shape == (2, 240, 320, 3)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_recipe_trains_is_stopped_and_goes_on(tmp_path, precision):
    """The engine on the device: clips drawn there, channels last, autocast with and without a scaler, resume."""
    values = ["size=64", "frames=4", "epoch_clips=48", "validation_clips=24", "epochs=3", "batch_size=8", "lr=0.01"]
    recipe = load_recipe("motion-full", [*values, "save_every=2", f"precision={precision}"])

    def stop(row):
        if row["kind"] == "epoch" and row["epoch"] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, device="cuda", on_event=stop)
    result = train(recipe, tmp_path, device="cuda")
    assert result.finished
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    assert all(math.isfinite(row["loss"]) and row["timing"]["peak_memory_mib"] > 0 for row in epochs)


def test_the_motion_datasets_noise_is_the_same_on_the_gpu():
    clips = MotionDataset(12, MotionConfig(height=48, width=48, noise=0.05))
    cpu, cuda = clips.batch(range(12)), clips.batch(range(12), "cuda")
    assert cuda.videos.is_cuda
    torch.testing.assert_close(cpu.videos, cuda.videos.cpu(), rtol=0, atol=1e-2)
