"""TSN-ResNet50: counts, parity with torchvision's ResNet-50, and the loading of its weights."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minirsa.complexity import Complexity, measure
from minirsa.models.resnet import (
    Bottleneck,
    StochasticDepth,
    TSNResNet,
    dropped_tensors,
    from_pretrained,
    load_torchvision,
    torchvision_key_map,
    tsn_resnet50,
)


@pytest.fixture(scope="module")
def torchvision():
    return pytest.importorskip("torchvision", reason="the parity peer is an extra: pip install minirsa[parity]")


def small(**options):
    return TSNResNet(5, 3, depths=(1, 2), widths=(4, 8), stem_width=6, **options)


def randomise(module, seed):
    """Fill every parameter and buffer, zero-initialised ones included, with numbers that keep activations tame."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith(("running_var", "norm.weight")) or (tensor.dim() == 1 and "weight" in name):
            tensor.copy_(torch.empty_like(tensor).uniform_(0.5, 1.5, generator=generator))
        else:
            scale = 0.1 if tensor.dim() < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(torch.empty_like(tensor).normal_(0, scale, generator=generator))
    return module


@pytest.fixture(scope="module")
def image_net(torchvision):
    return randomise(torchvision.models.resnet50(weights=None).eval(), seed=0)


@pytest.fixture(scope="module")
def checkpoint(image_net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(image_net.state_dict(), path)
    return path


def frame_by_frame(image_net, video):
    """torchvision's features of every frame: (B, 3, T, H, W) -> (B, T, 2048)."""
    body = nn.Sequential(*list(image_net.children())[:-1], nn.Flatten())
    with torch.no_grad():
        return torch.stack([body(frame) for frame in video.unbind(2)], dim=1)


def test_tsn_resnet50_has_the_published_backbones_cost():
    counted = measure(tsn_resnet50(), torch.empty(1, 3, 8, 224, 224, device="meta"))
    assert counted == Complexity(params=23_864_558, macs=32_699_940_864)


def test_one_frame_and_1000_classes_cost_what_torchvision_prints(torchvision):
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    counted = measure(tsn_resnet50(1000, 1), torch.empty(1, 3, 1, 224, 224, device="meta"))
    assert counted.params == weights.meta["num_params"]
    assert round(counted.macs / 1e9, 3) == weights.meta["_ops"]


def test_features_equal_torchvisions_on_every_frame(image_net, checkpoint):
    video = torch.randn(1, 3, 2, 96, 64, generator=torch.Generator().manual_seed(1))
    model = from_pretrained(checkpoint, num_classes=4, num_frames=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.features(video), frame_by_frame(image_net, video), rtol=1e-4, atol=1e-5)
    assert model(video).shape == (1, 4)


def test_safetensors_and_torch_files_load_alike(image_net, tmp_path, checkpoint):
    save_file(image_net.state_dict(), tmp_path / "resnet50.safetensors")
    torch.manual_seed(0)
    one = from_pretrained(checkpoint).state_dict()
    torch.manual_seed(0)
    other = from_pretrained(tmp_path / "resnet50.safetensors").state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_key_map_covers_everything_but_the_classifier(image_net):
    model = tsn_resnet50()
    key_map = torchvision_key_map(model)
    assert set(model.state_dict()) - set(key_map) == {"classifier.weight", "classifier.bias"}
    assert set(image_net.state_dict()) - set(key_map.values()) == {"fc.weight", "fc.bias"}
    assert len(set(key_map.values())) == len(key_map)
    assert set(dropped_tensors(model)) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer3.5.conv2.weight"), r"1 missing \[layer3.5.conv2.weight\], 0 unknown"),
        (lambda w: w.update({"layer3.6.conv1.weight": torch.zeros(1)}), r"1 unknown \[layer3.6.conv1.weight\]"),
        (lambda w: w.update({"bn1.weight": torch.ones(65)}), r"stem_norm.weight: expected .*\(64,\), got \(65,\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(image_net, tmp_path, change, message):
    weights = image_net.state_dict()
    change(weights)
    torch.save(weights, tmp_path / "changed.pth")
    model = tsn_resnet50()
    before = model.stem.weight.clone()
    with pytest.raises(ValueError, match=message):
        load_torchvision(model, tmp_path / "changed.pth")
    assert torch.equal(model.stem.weight, before)


def test_weights_from_before_step_counters_load(image_net, tmp_path, checkpoint):
    weights = {n: t for n, t in image_net.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    old = from_pretrained(tmp_path / "old.pth")
    assert torch.equal(old.stages[3][2].expand.weight, from_pretrained(checkpoint).stages[3][2].expand.weight)


def test_depths_other_than_the_checkpoints_are_refused(checkpoint):
    with pytest.raises(ValueError, match="unknown"):
        from_pretrained(checkpoint, depths=(3, 4, 5, 3))


def test_logits_are_the_mean_of_what_each_frame_says():
    model = randomise(small(dropout=0.0), seed=2).eval()
    video = torch.randn(2, 3, 3, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(video), model.frame_logits(video).mean(1))
        alone = [model.frame_logits(video.roll(-t, dims=2))[:, 0] for t in range(3)]
        torch.testing.assert_close(torch.stack(alone, 1), model.frame_logits(video))  # frames do not meet
        torch.testing.assert_close(model(video), model(video.flip(2)))  # so their order does not matter


def test_feature_maps_and_features_have_the_shapes_of_the_diagram():
    model = small().eval()
    video = torch.randn(2, 3, 3, 32, 48)
    assert [tuple(m.shape) for m in model.feature_maps(video)] == [(2, 16, 3, 8, 12), (2, 32, 3, 4, 6)]
    assert model.features(video).shape == (2, 3, 32)
    assert model.frame_logits(video).shape == (2, 3, 5)


def test_transform_inputs_are_what_the_transforms_receive():
    seen = {}

    class Recorder(nn.Module):
        def __init__(self, place):
            super().__init__()
            self.place = place

        def forward(self, x):
            seen[self.place] = x
            return 2 * x

    places = [(0, 0), (1, 1)]
    model = small(transforms={place: lambda c, s, place=place: Recorder(place) for place in places})
    model = randomise(model, seed=3).eval()
    with torch.no_grad():
        inputs = model.transform_inputs(torch.randn(1, 3, 3, 16, 16))
    assert list(inputs) == places == list(model.replaced())
    assert [tuple(x.shape) for x in inputs.values()] == [(1, 4, 3, 4, 4), (1, 8, 3, 2, 2)]
    assert all(torch.equal(inputs[place], seen[place]) for place in places)


def test_every_bottleneck_starts_as_its_shortcut_and_convolutions_by_he():
    torch.manual_seed(0)
    model = tsn_resnet50()
    assert all((block.expand_norm.weight == 0).all() for block in model.bottlenecks().values())
    block = Bottleneck(32, 8)
    nn.init.zeros_(block.expand_norm.weight)
    x = torch.randn(2, 32, 3, 4, 4)
    torch.testing.assert_close(block(x), x.relu())
    block = model.stages[2][0]  # fan out: channels out times the size of the kernel
    for convolution, fan_out in [(block.transform, 256 * 9), (block.expand, 1024), (block.shortcut[0], 1024)]:
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    assert model.stem.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.03)


def test_stochastic_depth_falls_linearly_to_its_last_value():
    keeps = [block.drop.keep for block in tsn_resnet50(keep=0.8).bottlenecks().values()]
    assert keeps == pytest.approx([1 - 0.2 * i / 15 for i in range(16)])


def test_stochastic_depth_drops_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = StochasticDepth(0.8).train()
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    per_clip = out.flatten(1)
    assert (per_clip == per_clip[:, :1]).all()
    assert set(per_clip.unique().tolist()) == {0.0, 1.25}
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 1, 3, 16, 16), (3, 3, 16, 16)])
def test_a_wrong_video_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"expected .*\(B, 3, 3, H, W\), got \(" + ", ".join(map(str, shape))):
        small()(torch.zeros(shape))


def test_places_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"got \[\(1, 2\)\]"):
        small(transforms={(1, 2): lambda c, s: nn.Identity()})
    with pytest.raises(ValueError, match="as many depths as widths"):
        TSNResNet(2, 2, depths=(1, 1, 1), widths=(4, 8))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        StochasticDepth(0.0)
