"""ViT: timm's numbers with the same weights, patches two ways, counts, positions, and what figures read."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from minirsa import complexity, published
from minirsa.layers.positions import sinusoidal_positions
from minirsa.models import vit
from minirsa.models.deit import deit_tiny
from minirsa.models.vit import (
    VisionTransformer,
    attention_distance,
    attention_rollout,
    from_pretrained,
    interpolate_positions,
    patches,
)

SMALL = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 4, "hidden": 40, "num_classes": 7}


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randomized(model, seed=0):
    """Noise on every parameter: heads and tokens start at zero and would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


def timm_model(**options):
    timm = pytest.importorskip("timm", reason="the parity peer is an extra: pip install minirsa[parity]")
    return timm.models.vision_transformer.VisionTransformer(
        **{
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 24,
            "depth": 3,
            "num_heads": 4,
            "mlp_ratio": 40 / 24,
            "num_classes": 7,
            **options,
        }
    )


@pytest.fixture
def checkpoint(tmp_path):
    """timm's small model with random weights, and its file."""
    peer = randomized(timm_model())
    path = tmp_path / "vit.safetensors"
    save_file(peer.state_dict(), path)
    return peer, path


def test_same_weights_as_timm_give_the_same_logits(checkpoint):
    peer, path = checkpoint
    model = from_pretrained(path, VisionTransformer, **SMALL).eval()
    images = draw(3, 3, 32, 32)
    assert_close(model(images), peer(images), atol=1e-5, rtol=0)
    logits, weights = model(images, return_weights=True)
    assert_close(logits, peer(images), atol=1e-5, rtol=0)
    assert len(weights) == 3
    assert weights[0].shape == (3, 4, 17, 17)
    assert_close(weights[1].sum(-1), torch.ones(3, 4, 17))


def test_a_checkpoint_of_another_size_is_interpolated_as_timm_does(checkpoint):
    peer, path = checkpoint
    larger = timm_model(img_size=48)
    larger.load_state_dict(peer.state_dict() | {"pos_embed": larger.pos_embed})
    from timm.layers import resample_abs_pos_embed

    with torch.no_grad():
        larger.pos_embed.copy_(resample_abs_pos_embed(peer.pos_embed, [6, 6]))
    images = draw(2, 3, 48, 48)
    expected = larger.eval()(images)
    model = from_pretrained(path, VisionTransformer, **{**SMALL, "image_size": 48}).eval()
    assert_close(model(images), expected, atol=1e-5, rtol=0)
    small = from_pretrained(path, VisionTransformer, **SMALL).eval()
    assert_close(small(images), expected, atol=1e-5, rtol=0)  # interpolated when the images come


def test_a_checkpoint_with_another_head_keeps_this_one(checkpoint):
    _, path = checkpoint
    options = {**SMALL, "num_classes": 5}
    with pytest.raises(ValueError, match=r"head.weight.*\(5, 24\).*\(7, 24\)"):
        from_pretrained(path, VisionTransformer, **options)
    model = from_pretrained(path, VisionTransformer, keep_head=False, **options)
    assert (model.head.weight == 0).all()
    assert model.encoder.layers[2].feed_forward.expand.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.attn.qkv.bias"), r"missing.*blocks.1.attn.qkv"),
        (lambda t: t.pop("norm.weight"), r"missing.*norm.weight"),
        (lambda t: t.update({"blocks.3.norm1.weight": torch.ones(24)}), r"unknown.*blocks.3.norm1.weight"),
        (lambda t: t.update({"pos_embed": torch.ones(1, 16, 24)}), "square"),
        (lambda t: t.update({"pos_embed": torch.ones(16, 24)}), "pos_embed"),
        (lambda t: t.update({"cls_token": torch.ones(1, 1, 23)}), "class_token"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_by_name(checkpoint, tmp_path, change, words):
    peer, _ = checkpoint
    tensors = dict(peer.state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=words):
        from_pretrained(tmp_path / "changed.safetensors", VisionTransformer, **SMALL)


def test_models_without_class_token_or_learned_positions_take_no_published_weights(checkpoint):
    for options in ({"pool": "mean"}, {"positions": "none"}, {"positions": "sinusoidal"}):
        with pytest.raises(ValueError, match="class token and learned positions"):
            from_pretrained(checkpoint[1], VisionTransformer, **SMALL, **options)


def test_published_builders_take_published_shapes(tmp_path):
    timm = pytest.importorskip("timm", reason="the parity peer is an extra: pip install minirsa[parity]")
    peer = randomized(timm.create_model("deit_tiny_patch16_224"))
    save_file(peer.state_dict(), tmp_path / "tiny.safetensors")
    model = from_pretrained(tmp_path / "tiny.safetensors", deit_tiny).eval()
    images = draw(1, 3, 224, 224)
    assert_close(model(images), peer(images), atol=1e-4, rtol=1e-5)


VARIANTS = {
    vit.vit_base_16: (86_567_656, 17.56),
    vit.vit_base_32: (88_224_232, 4.41),
    vit.vit_large_16: (304_326_632, 61.55),
    vit.vit_large_32: (306_535_400, 15.38),
    vit.vit_huge_14: (632_045_800, 167.3),
}


@pytest.mark.parametrize("builder", VARIANTS, ids=lambda b: b.__name__)
def test_parameters_and_multiply_adds(builder):
    with torch.device("meta"):
        measured = complexity.measure(builder(), torch.empty(1, 3, 224, 224, device="meta"))
    params, gmacs = VARIANTS[builder]
    assert measured.params == params
    assert measured.macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


def test_the_published_table_is_met():
    shown = {"ViT-Base": vit.vit_base_16, "ViT-Large": vit.vit_large_32, "ViT-Huge": vit.vit_huge_14}
    for row in published.VIT_VARIANTS:
        with torch.device("meta"):
            model = shown[row.model]()
        layer = model.encoder.layers[0]
        got = (len(model.encoder.layers), model.width, layer.feed_forward.expand.out_features, layer.attention.heads)
        assert got == (row.layers, row.width, row.mlp, row.heads)
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert int(count) == row.params_m or round(count) == row.params_m


def test_patches_as_convolution_and_as_reshape_plus_linear_are_equal():
    model, images = randomized(VisionTransformer(**SMALL)), draw(2, 3, 32, 48)
    convolution = model.patch_embedding
    by_linear = patches(images, 8) @ convolution.weight.flatten(1).T + convolution.bias
    by_convolution = convolution(images).flatten(2).transpose(1, 2)
    assert_close(by_linear, by_convolution, atol=1e-5, rtol=1e-5)
    assert_close(patches(images, 8)[1, 7].reshape(3, 8, 8), images[1, :, 8:16, 8:16])  # row 1, column 1 of 4 x 6


def test_equations_1_to_4_by_hand():
    model, images = randomized(VisionTransformer(**SMALL)).double(), draw(2, 3, 32, 32, dtype=torch.float64)
    z = patches(images, 8) @ model.patch_embedding.weight.flatten(1).T + model.patch_embedding.bias
    token = model.class_token.expand(2, 1, -1)
    position = torch.cat([model.class_position[None], model.positions.table])
    z = torch.cat([token, z], 1) + position
    for layer in model.encoder.layers:
        z = layer.attention(layer.attention_norm(z)) + z
        z = layer.feed_forward(layer.feed_forward_norm(z)) + z
    y = model.encoder.norm(z[:, 0])  # the norm of equation 4 on the class token alone
    assert_close(model.features(images), y)
    assert_close(model(images), y @ model.head.weight.T + model.head.bias)


def test_mean_pooling_has_no_class_token_and_averages_the_normalised_patches():
    model, images = randomized(VisionTransformer(**SMALL, pool="mean")), draw(2, 3, 32, 32)
    assert model.embed(images).shape == (2, 16, 24)
    assert_close(model.features(images), model.encoder(model.embed(images)).mean(1))
    assert not [name for name, _ in model.named_parameters() if "class" in name]


def test_without_positions_the_order_of_the_patches_does_not_matter():
    images = draw(2, 3, 32, 32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    cells = patches(images, 8)[:, order].reshape(2, 4, 4, 3, 8, 8)
    shuffled = cells.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    for positions, same in (("none", True), ("learned", False), ("sinusoidal", False)):
        model = randomized(VisionTransformer(**SMALL, positions=positions))
        assert torch.allclose(model(images), model(shuffled), atol=1e-4) == same


def test_sinusoidal_positions_code_row_and_column():
    model = VisionTransformer(**SMALL, positions="sinusoidal")
    vectors = model.positions.vectors((3, 5)).reshape(3, 5, 24)
    assert_close(vectors[2, :, :12], sinusoidal_positions(3, 12)[2].expand(5, 12))
    assert_close(vectors[1, :, 12:], sinusoidal_positions(5, 12))
    assert not list(model.positions.parameters())


def test_positions_are_interpolated_by_place():
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1)  # the row's number
    assert_close(interpolate_positions(ramp, (4, 4), (4, 4)), ramp)
    wide = interpolate_positions(ramp, (4, 4), (4, 8)).reshape(4, 8)
    assert_close(wide, torch.arange(4.0)[:, None].expand(4, 8), atol=1e-5, rtol=0)
    assert interpolate_positions(ramp, (4, 4), (7, 3)).shape == (21, 1)


def test_image_may_have_another_size_and_shape():
    model = randomized(VisionTransformer(**SMALL))
    assert model(draw(1, 3, 16, 56)).shape == (1, 7)
    tall = VisionTransformer(**{**SMALL, "image_size": (16, 56)})
    assert tall.positions.grid == (2, 7)


def test_gradients_reach_every_parameter():
    model = randomized(VisionTransformer(**SMALL)).train()
    model(draw(2, 3, 32, 32)).square().sum().backward()
    bare = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert bare == []


def test_rollout_multiplies_layers_and_rows_add_up_to_one():
    weights = [draw(2, 4, 5, 5, seed=s).softmax(-1) for s in range(3)]
    reached = attention_rollout(weights)
    assert_close(reached.sum(-1), torch.ones(2, 5))
    mixed = [0.5 * w.mean(1) + 0.5 * torch.eye(5) for w in weights]
    assert_close(reached, mixed[2] @ mixed[1] @ mixed[0])
    assert_close(attention_rollout(weights, residual=1.0), torch.eye(5).expand(2, 5, 5))


def test_attention_distance_is_the_mean_distance_in_pixels():
    # class token + a row of three patches; the one head looks one patch to the right, from the last one to itself
    weights = torch.zeros(1, 1, 4, 4)
    weights[0, 0, [1, 2, 3], [2, 3, 3]] = 0.5
    weights[0, 0, :, 0] += 0.5  # half of it on the class token, which is no place
    assert attention_distance(weights, (1, 3), patch_size=16).item() == pytest.approx(16 * 2 / 3)
    diagonal = torch.zeros(1, 2, 4, 4)
    diagonal[:, 0, :, 0] = 1.0
    diagonal[:, 1] = torch.eye(4)
    got = attention_distance(diagonal, (2, 2), tokens=0)
    assert_close(got, torch.tensor([(0 + 1 + 1 + math.sqrt(2)) / 4, 0.0]))


X = torch.zeros(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: VisionTransformer(**{**SMALL, "image_size": 30}), "patch_size must divide image_size"),
        (lambda: VisionTransformer(**{**SMALL, "heads": 5}), "heads must divide width"),
        (lambda: VisionTransformer(**SMALL, pool="max"), "pool"),
        (lambda: VisionTransformer(**SMALL, positions="rotary"), "rotary"),
        (lambda: VisionTransformer(**{**SMALL, "width": 6, "heads": 2}, positions="sinusoidal"), "4 divides"),
        (lambda: VisionTransformer(**{**SMALL, "num_classes": 0}), "num_classes"),
        (lambda: VisionTransformer(**SMALL)(X[:, :1]), r"\(B, 3, H, W\)"),
        (lambda: VisionTransformer(**SMALL)(X[0]), r"\(B, 3, H, W\)"),
        (lambda: VisionTransformer(**SMALL)(X[..., :30]), "multiples of 8.*32 x 30"),
        (lambda: patches(X, 5), "multiples of 5"),
        (lambda: interpolate_positions(torch.zeros(5, 2), (2, 2), (3, 3)), "2 x 2 rows"),
        (lambda: attention_rollout([]), "each layer"),
        (lambda: attention_rollout([torch.zeros(1, 1, 2, 2)], residual=2), "residual"),
        (lambda: attention_distance(torch.zeros(1, 1, 5, 5), (2, 3)), "2 x 3 patches"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
