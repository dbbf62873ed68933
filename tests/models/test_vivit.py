"""ViViT: transformers' logits with the same weights, ViT as a special case, counts, tubelets, and who reaches whom."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from minirsa import complexity
from minirsa.models.vit import VisionTransformer
from minirsa.models.vivit import (
    FactorisedDotProductAttention,
    ViViT,
    from_pretrained,
    from_vit,
    initialize_tubelets,
    load_vit,
    resize_positions,
    tubelets,
    vivit_base,
)

SIZES = {"image_size": 32, "width": 24, "depth": 3, "heads": 4, "hidden": 40, "num_classes": 7}
SMALL = {**SIZES, "num_frames": 6, "tubelet": (2, 8, 8)}
GRID = (3, 4, 4)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**options):
    return ViViT(**{**SMALL, "temporal_depth": 2, **options})


def randomized(model, seed=0):
    """Noise on every parameter: tokens, heads and temporal projections start at zero and would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


@pytest.fixture
def peer():
    transformers = pytest.importorskip("transformers", reason="the parity peer is an extra: minirsa[parity]")
    return randomized(
        transformers.VivitForVideoClassification(
            transformers.VivitConfig(
                image_size=32,
                num_frames=6,
                tubelet_size=[2, 8, 8],
                hidden_size=24,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=40,
                num_labels=7,
                layer_norm_eps=1e-6,
                hidden_act="gelu_fast",
            )
        )
    )


def test_same_weights_as_transformers_give_the_same_logits(peer, tmp_path):
    peer.save_pretrained(tmp_path)  # under the names that published files have; those in memory change with versions
    model = from_pretrained(tmp_path / "model.safetensors", small).eval()
    video = draw(2, 3, 6, 32, 32)
    with torch.no_grad():
        expected = peer(video.transpose(1, 2)).logits
    assert expected.std(0).max() > 0.1  # two videos, two answers: the comparison sees the input
    assert_close(model(video), expected, atol=1e-5, rtol=1e-5)
    logits, weights = model(video, return_weights=True)
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert weights[2]["all"].shape == (2, 4, 49, 49)


def test_checkpoints_that_do_not_fit_are_refused(peer, tmp_path):
    peer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="head"):
        from_pretrained(path, small, num_classes=5)
    assert from_pretrained(path, small, num_classes=5, keep_head=False).head.out_features == 5
    with pytest.raises(ValueError, match="model 1"):
        from_pretrained(path, small, variant=2)
    tensors = load_file(path)
    del tensors["vivit.encoder.layer.1.attention.attention.key.bias"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"1 missing \[vivit.encoder.layer.1.attention.attention.key.bias\]"):
        from_pretrained(path, small)


def image_model():
    return randomized(VisionTransformer(**SIZES, patch_size=8))


def test_model_1_with_one_frame_is_the_vit():
    vit = image_model()
    model = load_vit(small(num_frames=1, tubelet=(1, 8, 8), activation="gelu"), vit.state_dict()).eval()
    model.head.load_state_dict(vit.head.state_dict())
    image = draw(2, 3, 32, 32)
    assert_close(model(image[:, :, None]), vit(image), atol=1e-5, rtol=1e-5)
    tanh = load_vit(small(num_frames=1, tubelet=(1, 8, 8)), vit.state_dict()).eval()
    tanh.head.load_state_dict(vit.head.state_dict())
    assert 1e-6 < (tanh(image[:, :, None]) - vit(image)).abs().max() < 0.05  # the other GELU


def test_model_2_reads_each_frame_as_the_vit_does():
    vit = image_model()
    model = load_vit(small(variant=2, tubelet=(1, 8, 8), activation="gelu"), vit.state_dict()).eval()
    seen = []
    model.time_layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    video = draw(2, 3, 6, 32, 32)
    model(video)
    frames = torch.stack([vit.features(video[:, :, t]) for t in range(6)], 1)
    assert_close(seen[0][:, 1:] - model.time_positions, frames, atol=1e-5, rtol=1e-5)


def test_model_3_starts_as_an_image_model_without_class_token():
    vit = VisionTransformer(**SIZES, patch_size=8, pool="mean")
    vit = randomized(vit)
    model = load_vit_mean(small(variant=3, tubelet=(1, 8, 8), activation="gelu"), vit)
    video = draw(2, 3, 6, 32, 32)
    frames = torch.stack([vit.features(video[:, :, t]) for t in range(6)], 1)
    assert_close(model.eval().features(video), frames.mean(1), atol=1e-5, rtol=1e-5)


def load_vit_mean(model, vit):
    """`load_vit` takes a class model's weights; one without gets stand-ins that models 3 and 4 leave out."""
    tokens = {"class_token": torch.zeros(24), "class_position": torch.zeros(24)}
    return load_vit(model, {**vit.state_dict(), **tokens})


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_every_variant_starts_from_a_checkpoint_under_timms_names(variant, tmp_path):
    timm = pytest.importorskip("timm", reason="the parity peer is an extra: pip install minirsa[parity]")
    image = randomized(
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=4, mlp_ratio=40 / 24, num_classes=9
        )
    )
    save_file(image.state_dict(), tmp_path / "vit.safetensors")
    model = from_vit(tmp_path / "vit.safetensors", small, variant=variant, method="inflate")
    qkv = image.blocks[1].attn.qkv.weight.chunk(3)
    layer = model.layers[1]
    spatial = layer.space_attention if variant == 3 else layer.attention
    assert torch.equal(spatial.key.weight, qkv[1])
    if variant == 3:
        assert torch.equal(layer.time_attention.value.weight, qkv[2])
        assert (layer.time_attention.output.weight == 0).all()
    assert_close(model.embedding.weight[:, :, 0] * 2, image.patch_embed.proj.weight)
    places = image.pos_embed[0, 1:]
    assert torch.equal(model.positions, places if variant == 2 else places.repeat(3, 1))
    with pytest.raises(ValueError, match="missing"):
        from_vit(tmp_path / "vit.safetensors", small, variant=variant, depth=4)


COUNTS = {1: (88_954_000, 451.5), 2: (115_062_928, 283.3), 3: (117_319_312, 371.1), 4: (88_952_464, 276.2)}
PUBLISHED = {1: (88.9, 455.2), 2: (115.1, 284.4), 3: (117.3, 372.3), 4: (88.9, 277.1)}  # Arnab et al., table 2


@pytest.mark.parametrize("variant", COUNTS)
def test_parameters_and_multiply_adds(variant):
    with torch.device("meta"):
        model = vivit_base(variant=variant).eval()
    measured = complexity.measure(model, torch.empty(1, 3, 32, 224, 224, device="meta"))
    assert measured.params == COUNTS[variant][0]
    assert measured.macs / 1e9 == pytest.approx(COUNTS[variant][1], abs=0.05)
    params, gmacs = PUBLISHED[variant]
    assert measured.params / 1e6 == pytest.approx(params, abs=0.06)
    assert measured.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_tubelets_as_convolution_and_as_reshape_plus_linear_are_equal():
    video, layer = draw(2, 3, 7, 32, 40), nn.Conv3d(3, 5, (2, 8, 8), (2, 8, 8))
    parts = tubelets(video, (2, 8, 8))
    assert parts.shape == (2, 3, 4, 5, 3 * 128)  # the seventh frame fills no tubelet
    expected = layer(video).permute(0, 2, 3, 4, 1)
    assert_close(parts @ layer.weight.flatten(1).T + layer.bias, expected, atol=1e-5, rtol=1e-5)
    assert_close(parts[1, 2, 3, 4].reshape(3, 2, 8, 8), video[1, :, 4:6, 24:32, 32:40])


def test_inflated_tubelets_see_an_average_and_central_ones_the_middle_frame():
    image, video = nn.Conv2d(3, 5, 8, 8), draw(2, 3, 3, 16, 16)
    box = nn.Conv3d(3, 5, (3, 8, 8), (3, 8, 8))
    box.bias = image.bias
    initialize_tubelets(box.weight, image.weight, "inflate")
    assert_close(box(video)[:, :, 0], image(video.mean(2)), atol=1e-5, rtol=1e-5)
    initialize_tubelets(box.weight, image.weight, "central")
    assert_close(box(video)[:, :, 0], image(video[:, :, 1]), atol=1e-5, rtol=1e-5)
    even = torch.ones(5, 3, 4, 8, 8)
    initialize_tubelets(even, image.weight, "central")
    assert [bool(even[:, :, t].any()) for t in range(4)] == [False, False, True, False]  # t // 2


def test_half_of_the_heads_look_in_space_and_half_in_time():
    layer, x = FactorisedDotProductAttention(24, 4).double(), draw(1, *GRID, 24).double().requires_grad_()
    with torch.no_grad():
        layer.output.weight.copy_(torch.eye(24))
    y, weights = layer(x, return_weights=True)
    assert weights["space"].shape == (1, 3, 2, 16, 16)
    assert weights["time"].shape == (1, 16, 2, 3, 3)
    for channels, near in ((slice(0, 12), "frame"), (slice(12, 24), "place")):
        (gradient,) = torch.autograd.grad(y[0, 1, 2, 3, channels].sum(), x, retain_graph=True)
        felt = gradient[0].abs().sum(-1) > 0
        expected = torch.zeros(GRID, dtype=torch.bool)
        if near == "frame":
            expected[1] = True
        else:
            expected[:, 2, 3] = True
        assert torch.equal(felt, expected)


@pytest.mark.parametrize("axes", ["space", "time"])
def test_model_3_attends_in_space_then_in_time(axes):
    layer = small(variant=3).layers[0].double()
    x = draw(1, *GRID, 24).double().requires_grad_()
    y, weights = layer(x, return_weights=True)
    assert list(weights) == ["space", "time"]
    # the temporal projection starts at zero: only the frame is felt
    (gradient,) = torch.autograd.grad(y[0, 1, 2, 3].square().sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).flatten(1).all(1).tolist() == [False, True, False]
    nn.init.eye_(layer.time_attention.output.weight)
    y, _ = layer(x)
    (gradient,) = torch.autograd.grad(y[0, 1, 2, 3].square().sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).all()  # space in each frame, then time: the whole clip


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(variant):
    video, gradients = draw(2, 3, 6, 32, 32), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = randomized(small(variant=variant, checkpointing=checkpointing)).train()
        model(video).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, plain in gradients[0].items():
        assert plain is not None
        # adding one vector to every key changes no softmax
        assert name.endswith("key.bias") or plain.abs().sum() > 0, name
        assert_close(gradients[1][name], plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_other_lengths_and_sizes_are_taken_and_positions_interpolated(variant):
    model = randomized(small(variant=variant))
    assert model(draw(1, 3, 9, 24, 48)).shape == (1, 7)
    logits, weights = model(draw(2, 3, 4, 32, 32), return_weights=True)
    assert logits.shape == (2, 7)
    names = {1: ["all"] * 3, 2: ["space"] * 3 + ["time"] * 2, 3: ["space"] * 3, 4: ["space"] * 3}[variant]
    assert [next(iter(kept)) for kept in weights] == names
    for kept in weights:
        for values in kept.values():
            assert_close(values.sum(-1), torch.ones(values.shape[:-1]))


def test_positions_between_two_known_ones_are_in_between():
    table = torch.arange(4.0)[:, None].repeat_interleave(4, 0)  # (4 1 4): the frame's number
    assert torch.equal(resize_positions(table, (4, 2, 2), (4, 2, 2)), table)
    longer = resize_positions(table, (4, 2, 2), (8, 2, 2)).reshape(8, 4)
    assert (longer.diff(dim=0) >= 0).all()
    assert_close(longer[3:5].mean(0), torch.full((4,), 1.5))


def test_stochastic_depth_grows_linearly():
    for variant in (1, 3, 4):
        layers = small(variant=variant, stochastic_depth=0.3).layers
        assert [layer.stochastic_depth.keep for layer in layers] == pytest.approx([1, 0.85, 0.7])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small(variant=5), r"\[1, 2, 3, 4\], got 5"),
        (lambda: small(tubelet=(2, 8)), r"tubelet \(t, P, P\)"),
        (lambda: small(num_frames=1), "at least one tubelet"),
        (lambda: small(heads=5), "heads must divide width"),
        (lambda: small(variant=4, heads=3), "even number of heads"),
        (lambda: small()(draw(1, 3, 32, 32)), r"\(B, 3, T, H, W\)"),
        (lambda: small()(draw(1, 3, 1, 32, 32)), r"at least one tubelet \(2, 8, 8\)"),
        (lambda: tubelets(draw(1, 3, 1, 8, 8), (2, 8, 8)), "at least"),
        (lambda: initialize_tubelets(torch.zeros(5, 3, 2, 8, 8), torch.zeros(5, 3, 4, 4), "inflate"), "patch|image"),
        (lambda: initialize_tubelets(torch.zeros(5, 3, 2, 8, 8), torch.zeros(5, 3, 8, 8), "uniform"), "uniform"),
        (lambda: resize_positions(torch.zeros(5, 2), (1, 2, 2), (1, 3, 3)), "grid"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
