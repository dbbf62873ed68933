"""TimeSformer: transformers' logits with the same weights, ViT as a special case, counts, and who can reach whom."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from minirsa import complexity, published
from minirsa.models import timesformer
from minirsa.models.timesformer import (
    SCHEMES,
    TimeSformer,
    from_pretrained,
    from_vit,
    group,
    load_vit,
    local_mask,
    patch_weights,
    ungroup,
)
from minirsa.models.vit import VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 4, "hidden": 40, "num_classes": 7}
PEER = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "num_labels": 7,
    "num_frames": 4,
    "layer_norm_eps": 1e-6,
}
GRID = (4, 4, 4)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**options):
    return TimeSformer(**{**SMALL, "num_frames": 4, **options})


def randomized(model, seed=0):
    """Noise on every parameter: `last` layers and tokens start at zero and would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


def transformers_model(scheme, **options):
    transformers = pytest.importorskip("transformers", reason="the parity peer is an extra: minirsa[parity]")
    name = {"divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"}[scheme]
    return transformers.TimesformerForVideoClassification(
        transformers.TimesformerConfig(**{**PEER, "attention_type": name, **options})
    )


@pytest.mark.parametrize("scheme", ["divided", "joint"])
def test_same_weights_as_transformers_give_the_same_logits(scheme, tmp_path):
    peer = randomized(transformers_model(scheme))
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    model = from_pretrained(tmp_path / "peer.safetensors", small, attention=scheme).eval()
    video = draw(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = peer(video.transpose(1, 2)).logits
    assert expected.std(0).max() > 0.1  # two videos, two answers: the comparison sees the input
    assert_close(model(video), expected, atol=1e-5, rtol=1e-5)
    logits, weights = model(video, return_weights=True)
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert [tuple(kept) for kept in weights] == [SCHEMES[scheme]] * 3


def test_positions_of_a_checkpoint_are_interpolated_to_other_sizes(tmp_path):
    peer = randomized(transformers_model("divided"))
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    same = from_pretrained(tmp_path / "peer.safetensors", small).eval()
    larger = from_pretrained(tmp_path / "peer.safetensors", small, image_size=64, num_frames=8).eval()
    assert_close(larger.space_positions.unflatten(0, (8, 8))[::2, 1::2], same.space_positions.unflatten(0, (4, 4)))
    assert_close(larger.time_positions[::2], same.time_positions)
    video = draw(1, 3, 8, 64, 64)
    assert_close(same(video), larger(video), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_other_classes_keeps_the_head_it_finds(tmp_path):
    peer = randomized(transformers_model("divided"))
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    with pytest.raises(ValueError, match="head"):
        from_pretrained(tmp_path / "peer.safetensors", small, num_classes=5)
    model = from_pretrained(tmp_path / "peer.safetensors", small, num_classes=5, keep_head=False)
    assert model.head.out_features == 5
    tensors = peer.state_dict()
    del tensors["timesformer.encoder.layer.1.temporal_dense.bias"]
    save_file(tensors, tmp_path / "peer.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \[timesformer.encoder.layer.1.temporal_dense.bias\]"):
        from_pretrained(tmp_path / "peer.safetensors", small)
    with pytest.raises(ValueError, match="published weights"):
        from_pretrained(tmp_path / "peer.safetensors", small, attention="axial")


def vit_and(**options):
    """A random ViT and a TimeSformer that starts from it, with the same head."""
    vit = randomized(VisionTransformer(**SMALL))
    model = load_vit(small(**options), vit.state_dict())
    model.head.load_state_dict(vit.head.state_dict())
    return vit, model.eval()


@pytest.mark.parametrize("scheme", ["space", "joint", "divided"])  # the others' last branch sees a part of the frame
def test_on_one_frame_the_scheme_starts_as_the_vit(scheme):
    vit, model = vit_and(attention=scheme, num_frames=1)
    image = draw(2, 3, 32, 32)
    assert_close(model(image[:, :, None]), vit(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["divided", "space", "joint"])
def test_on_equal_frames_divided_and_space_attention_start_as_the_vit(scheme):
    vit, model = vit_and(attention=scheme)
    image = draw(2, 3, 32, 32)
    logits = model(image[:, :, None].expand(-1, -1, 4, -1, -1))
    if scheme == "joint":  # T copies of each key against one class token: another softmax
        assert not torch.allclose(logits, vit(image), atol=1e-3)
    else:
        assert_close(logits, vit(image), atol=1e-5, rtol=1e-5)


def test_branches_start_as_copies_of_the_vits_attention(tmp_path):
    vit, model = vit_and(attention="divided")
    layer, block = vit.encoder.layers[1], model.blocks[1]
    for branch in block.branches.values():
        assert torch.equal(branch.attention.value.weight, layer.attention.value.weight)
        assert torch.equal(branch.norm.bias, layer.attention_norm.bias)
    assert (block.branches["time"].last.weight == 0).all()
    assert (model.time_positions == 0).all()
    with pytest.raises(ValueError, match=r"missing.*encoder.layers.3"):
        load_vit(small(depth=4), vit.state_dict())


def test_a_vit_checkpoint_under_timms_names_is_read(tmp_path):
    timm = pytest.importorskip("timm", reason="the parity peer is an extra: pip install minirsa[parity]")
    peer = randomized(
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=4, mlp_ratio=40 / 24, num_classes=7
        )
    )
    save_file(peer.state_dict(), tmp_path / "vit.safetensors")
    model = from_vit(tmp_path / "vit.safetensors", small).eval()
    model.head.load_state_dict(peer.head.state_dict())
    image = draw(2, 3, 32, 32)
    assert_close(model(image[:, :, None].expand(-1, -1, 4, -1, -1)), peer(image), atol=1e-5, rtol=1e-5)


COUNTS = {  # 174 classes: parameters, multiply-adds a view
    "space": (85_932_462, 140.5),
    "joint": (85_938_606, 179.56),
    "divided": (121_392_558, 195.83),
    "local_global": (121_392_558, None),
    "axial": (156_846_510, None),
}


@pytest.mark.parametrize("scheme", COUNTS)
def test_parameters_and_multiply_adds(scheme):
    with torch.device("meta"):
        model = timesformer.timesformer_base(174, attention=scheme).eval()
        measured = complexity.measure(model, torch.empty(1, 3, 8, 224, 224, device="meta"))
    params, gmacs = COUNTS[scheme]
    assert measured.params == params
    if gmacs is not None:
        assert measured.macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


def test_each_further_branch_adds_the_same_number_of_parameters():
    assert COUNTS["divided"][0] - COUNTS["joint"][0] == 35_453_952
    assert COUNTS["axial"][0] - COUNTS["divided"][0] == 35_453_952
    with torch.device("meta"):
        assert sum(p.numel() for p in timesformer.timesformer_base().parameters()) == 121_566_352


@pytest.mark.parametrize(("builder", "gmacs"), [("timesformer_hr", 1702.69), ("timesformer_large", 2379.86)])
def test_larger_variants(builder, gmacs):
    with torch.device("meta"):
        model = getattr(timesformer, builder)(174).eval()
    frames, rows, columns = model.grid
    measured = complexity.measure(model, torch.empty(1, 3, frames, 16 * rows, 16 * columns, device="meta"))
    assert measured.macs / 1e9 == pytest.approx(gmacs, rel=1e-4)


def test_the_reviews_table_is_met():
    for row in published.TIMESFORMER_COST:
        if row.model == "TimeSformer":
            assert row.params_m == pytest.approx(COUNTS["divided"][0] / 1e6, abs=0.05)
            assert row.inference_tflops == pytest.approx(3 * 195.83e-3, abs=0.005)


def expected_reach(branch, grid):
    """Which patches a patch attends to, in loops from the paper's words: bool (n, n)."""
    frames, rows, columns = grid
    places = [(t, r, c) for t in range(frames) for r in range(rows) for c in range(columns)]
    reach = torch.zeros(len(places), len(places), dtype=torch.bool)
    for i, (t, r, c) in enumerate(places):
        for j, (t2, r2, c2) in enumerate(places):
            reach[i, j] = {
                "space": t == t2,
                "all": True,
                "time": (r, c) == (r2, c2),
                "width": (t, r) == (t2, r2),
                "height": (t, c) == (t2, c2),
                "global": t % 2 == t2 % 2 and r % 2 == r2 % 2 and c % 2 == c2 % 2,
                "local": -(rows // 4) <= r2 - r < rows // 2 - rows // 4
                and -(columns // 4) <= c2 - c < columns // 2 - columns // 4,
            }[branch]
    return reach


@pytest.mark.parametrize("scheme", ["joint", "divided", "local_global", "axial"])  # space: its frames are clips
def test_inputs_that_can_change_an_output_are_those_of_the_scheme(scheme):
    # one block; the patches' outputs against the patches' inputs, class token held still
    model = randomized(small(attention=scheme, depth=1)).double()
    block, token = model.blocks[0], draw(1, 1, 24).double()
    patches = draw(1, *GRID, 24).double().requires_grad_()
    reach = torch.eye(64, dtype=torch.bool)
    for branch in SCHEMES[scheme]:
        reach = (expected_reach(branch, GRID).double() @ reach.double()) > 0
    output, _, _ = block(patches, token)
    felt = torch.zeros(64, 64, dtype=torch.bool)
    direction = draw(24, seed=5).double()
    for i, value in enumerate((output.reshape(64, 24) @ direction).unbind()):
        (gradient,) = torch.autograd.grad(value, patches, retain_graph=True)
        felt[i] = gradient.reshape(64, 24).abs().sum(1) > 0
    assert torch.equal(felt, reach)


@pytest.mark.parametrize("branch", ["space", "all", "time", "width", "height", "local", "global"])
def test_groups_can_be_undone_and_hold_the_schemes_patches(branch):
    grid = (2, 4, 6)
    x = draw(3, *grid, 5)
    assert torch.equal(ungroup(group(x, branch), branch, grid), x)
    if branch != "local":
        members = group(torch.arange(48.0).reshape(1, *grid, 1), branch)[0, :, :, 0].long()
        reach = torch.zeros(48, 48, dtype=torch.bool)
        for patches in members:
            reach[patches[:, None], patches[None]] = True
        assert torch.equal(reach, expected_reach(branch, grid))
    else:
        assert torch.equal(local_mask(grid), expected_reach(branch, grid))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_laid_out_on_the_clip(scheme):
    model = randomized(small(attention=scheme))
    _, weights = model(draw(2, 3, 4, 32, 32), return_weights=True)
    assert len(weights) == 3
    for branch, kept in weights[1].items():
        assert_close(kept.sum(-1), torch.ones(kept.shape[:-1]))
        last = branch == SCHEMES[scheme][-1]
        full = patch_weights(kept, branch, GRID, with_class=last)
        assert full.shape == (2, 4, *GRID, *GRID)
        among = full.reshape(2, 4, 64, 64)
        assert torch.equal((among > 0).all(0).all(0), expected_reach(branch, GRID))
        if not last:
            assert_close(among.sum(-1), torch.ones(2, 4, 64))
        else:
            assert (among.sum(-1) < 1).all()


def test_class_token_is_left_out_of_time_and_averaged_over_frames_in_space():
    model = randomized(small())
    block, patches, token = model.blocks[0], draw(2, *GRID, 24), draw(2, 1, 24, seed=1)
    before, none, _ = block.branches["time"](patches, token)
    assert none is None
    assert torch.equal(before, block.branches["time"](patches, token + 1)[0])
    _, averaged, _ = block.branches["space"](patches, token)
    each = [block.branches["space"](patches[:, t : t + 1], token)[1] for t in range(4)]
    assert_close(averaged, torch.stack(each).mean(0))


def test_space_attention_knows_no_order():
    model, video = randomized(small(attention="space")), draw(2, 3, 4, 32, 32)
    assert_close(model(video.flip(2)), model(video), atol=1e-5, rtol=1e-5)
    divided = randomized(small())
    assert (divided(video.flip(2)) - divided(video)).abs().max() > 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_lengths_and_sizes_are_taken(scheme):
    model = randomized(small(attention=scheme))
    assert model(draw(1, 3, 6, 16, 48)).shape == (1, 7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_checkpointing_changes_no_gradient(scheme):
    video = draw(2, 3, 4, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = randomized(small(attention=scheme, checkpointing=checkpointing, stochastic_depth=0.0)).train()
        model(video).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients[-1])
    for plain, again in zip(*gradients):
        assert_close(again, plain, atol=1e-6, rtol=1e-4)


def test_stochastic_depth_drops_a_clips_branch_as_a_whole():
    torch.manual_seed(0)
    model = randomized(small(stochastic_depth=0.5)).train()
    assert [block.stochastic_depth.keep for block in model.blocks] == [1.0, 0.75, 0.5]
    block, patches, token = model.blocks[2], draw(64, *GRID, 24), draw(64, 1, 24)
    moved, token_moved, _ = block(patches, token)
    still = (moved == patches).flatten(1).all(1)
    assert 1 <= still.sum() <= 20  # all three sublayers left out: one in eight
    assert torch.equal(still, (token_moved == token).flatten(1).all(1) & still)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small(attention="tubes"), "tubes"),
        (lambda: small(image_size=30), "patch_size must divide"),
        (lambda: small(num_frames=0), "num_frames"),
        (lambda: small(heads=5), "heads must divide width"),
        (lambda: small(attention="local_global", num_frames=3), r"even.*\(3, 4, 4\)"),
        (lambda: small(attention="local_global")(draw(1, 3, 3, 32, 32)), r"even.*3, 4, 4"),
        (lambda: small()(draw(1, 3, 32, 32)), r"\(B, 3, T, H, W\)"),
        (lambda: small()(draw(1, 1, 4, 32, 32)), r"\(B, 3, T, H, W\)"),
        (lambda: small()(draw(1, 3, 4, 32, 30)), "multiples of 8.*32 x 30"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
