"""MViT: torchvision's logits with the same weights, ViT without pooling, counts, the stages of table 3, and pools."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minirsa import complexity, published
from minirsa.models import mvit
from minirsa.models.mvit import MViT, Pool, PoolingAttention, Stage, from_pretrained
from minirsa.models.vit import VisionTransformer

STAGES = (Stage(1, 8, 1, (1, 4, 4)), Stage(2, 16, 2, (1, 2, 2)), Stage(2, 32, 4))
SMALL = {"num_classes": 7, "num_frames": 4, "image_size": 32, "stages": STAGES}


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomized(model, seed=0):
    """Noise on every parameter: tokens start at zero and would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


@pytest.fixture
def peer():
    video = pytest.importorskip("torchvision", reason="the parity peer is an extra: minirsa[parity]").models.video.mvit
    widths = [(8, 16, 1), (16, 16, 2), (16, 32, 2), (32, 32, 4), (32, 32, 4)]
    blocks = [
        video.MSBlockConfig(
            num_heads=heads,
            input_channels=before,
            output_channels=after,
            kernel_q=[3, 3, 3] if begins else [],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 2, 2] if begins else [],
            stride_kv=[1, stride, stride],
        )
        for (before, after, heads), begins, stride in zip(widths, (0, 1, 0, 1, 0), (4, 2, 2, 1, 1))
    ]
    return randomized(
        video.MViT(
            (32, 32),
            4,
            blocks,
            residual_pool=False,
            residual_with_cls_embed=False,
            rel_pos_embed=False,
            proj_after_attn=False,
            num_classes=7,
        )
    )


def test_same_weights_as_torchvision_give_the_same_logits(peer, tmp_path):
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    model = from_pretrained(tmp_path / "peer.pth", MViT, **SMALL).eval()
    video = draw(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = peer(video)
    assert expected.std(0).max() > 0.1  # two videos, two answers: the comparison sees the input
    assert_close(model(video), expected, atol=1e-5, rtol=1e-5)
    logits, weights = model(video, return_weights=True)
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    # tokens: 8 x 8 places in 2 frames, then 4 x 4, then 2 x 2; keys and values 2 x 2, 4 x 4, 2 x 2, 4 x 4, 2 x 2
    sizes = [tuple(w.shape[1:]) for w in weights]
    assert sizes == [(1, 129, 9), (2, 33, 33), (2, 33, 9), (4, 9, 33), (4, 9, 9)]
    assert all(torch.allclose(w.sum(-1), torch.ones(w.shape[:-1]), atol=1e-5) for w in weights)


def test_the_published_net_has_torchvisions_tensors():
    video = pytest.importorskip("torchvision", reason="the parity peer is an extra: minirsa[parity]").models.video
    with torch.device("meta"):
        theirs, ours = video.mvit_v1_b().state_dict(), mvit.mvit_base_16x4()
    names = mvit.key_map(ours)
    assert set(names) == set(ours.state_dict())
    stacked = {name.replace(f".qkv.{part}.", ".qkv.") for name in names.values() for part in ("query", "key", "value")}
    stacked = {name for name in stacked if not any(f".qkv.{part}." in name for part in ("query", "key", "value"))}
    assert stacked == set(theirs)
    for name, tensor in ours.state_dict().items():
        if ".qkv." not in names[name]:
            assert tensor.shape == theirs[names[name]].shape


def test_checkpoints_that_do_not_fit_are_refused(peer, tmp_path):
    tensors = dict(peer.state_dict())
    torch.save(tensors, tmp_path / "peer.pth")
    with pytest.raises(ValueError, match="head"):
        from_pretrained(tmp_path / "peer.pth", MViT, **{**SMALL, "num_classes": 5})
    model = from_pretrained(tmp_path / "peer.pth", MViT, keep_head=False, **{**SMALL, "num_classes": 5})
    assert model.head.out_features == 5
    with pytest.raises(ValueError, match="unknown"):
        from_pretrained(tmp_path / "peer.pth", MViT, **SMALL, pooling="max")
    del tensors["blocks.1.attn.pool_q.pool.weight"]
    torch.save(tensors, tmp_path / "peer.pth")
    with pytest.raises(ValueError, match=r"1 missing \[blocks.1.attn.pool_q.pool.weight\]"):
        from_pretrained(tmp_path / "peer.pth", MViT, **SMALL)


def test_without_pooling_and_growth_it_is_a_vit():
    vit = randomized(
        VisionTransformer(image_size=32, patch_size=8, width=24, depth=3, heads=4, hidden=96, num_classes=7)
    )
    model = MViT(
        num_classes=7,
        num_frames=1,
        image_size=32,
        stages=[Stage(3, 24, 4)],
        stem_kernel=(1, 8, 8),
        stem_stride=(1, 8, 8),
        pooling="none",
    ).eval()
    tensors = vit.state_dict()
    own = {name: name for name in ("class_token", "class_position", "head.weight", "head.bias")}
    own |= {"space_positions": "positions.table", "stem.bias": "patch_embedding.bias"}
    own |= {f"norm.{kind}": f"encoder.norm.{kind}" for kind in ("weight", "bias")}
    state = {ours: tensors[theirs] for ours, theirs in own.items()}
    state["stem.weight"] = tensors["patch_embedding.weight"][:, :, None]
    state["time_positions"] = torch.zeros(1, 24)
    for name in model.state_dict():
        if name.startswith("blocks."):
            theirs = name.replace("blocks.", "encoder.layers.").replace(".expand", ".feed_forward.expand")
            state[name] = tensors[theirs.replace(".contract", ".feed_forward.contract")]
    model.load_state_dict(state)
    image = draw(2, 3, 32, 32)
    assert_close(model(image[:, :, None]), vit(image), atol=1e-5, rtol=1e-5)


COUNTS = {
    "base": (mvit.mvit_base_16x4, {}, 16, 36_610_672, 70.60),
    "base, max": (mvit.mvit_base_16x4, {"pooling": "max"}, 16, 36_513_232, 70.33),
    "base, avg": (mvit.mvit_base_16x4, {"pooling": "avg"}, 16, 36_513_232, 70.33),
    "base 32x3": (mvit.mvit_base_32x3, {}, 32, 36_611_440, 169.96),
    "small": (mvit.mvit_small, {}, 16, 26_038_032, 29.95),
    "small, max": (mvit.mvit_small, {"pooling": "max"}, 16, 25_911_824, 29.77),
    "ViT-B": (mvit.vit_base_video, {}, 8, 87_159_952, 179.56),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds(name):
    builder, options, frames, params, gmacs = COUNTS[name]
    with torch.device("meta"):
        model = builder(**options).eval()
    measured = complexity.measure(model, torch.empty(1, 3, frames, 224, 224, device="meta"))
    assert measured.params == params
    assert measured.macs / 1e9 == pytest.approx(gmacs, abs=0.006)


def test_the_published_costs_are_met_but_for_mvit_s():
    for row in published.MVIT_COST:
        name = {"ViT-B": "ViT-B", "MViT-B": "base, max", "MViT-S": "small, max"}[row.model]
        _, _, _, params, gmacs = COUNTS[name]
        same = abs(params / 1e6 - row.params_m) < 0.06 and abs(gmacs - row.gflops) < 0.2
        assert same == (row.model != "MViT-S")


TABLE_3 = {  # stage: channels x T x H x W, as the paper prints it
    "base": [(96, (8, 56, 56)), (96, (8, 56, 56)), (192, (8, 28, 28)), (384, (8, 14, 14)), (768, (8, 7, 7))],
    "small": [(128, (8, 28, 28)), (128, (8, 28, 28)), (256, (8, 14, 14)), (512, (8, 7, 7))],
}


@pytest.mark.parametrize("name", TABLE_3)
def test_stages_have_the_sizes_of_table_3(name):
    with torch.device("meta"):
        model = COUNTS[name][0]().eval()
        assert model.stage_shapes(torch.empty(1, 3, 16, 224, 224, device="meta")) == TABLE_3[name]
    widths = {stage.width: block for stage in model.stages for block in model.blocks}
    assert set(widths) == {width for width, _ in TABLE_3[name]}
    for block in model.blocks:
        width = block.attention_norm.normalized_shape[0]
        assert block.expand.out_features == 4 * width


@pytest.mark.parametrize(("kind", "reduce"), [("max", "amax"), ("avg", "mean")])
def test_pool_thins_out_patches_and_leaves_the_class_token(kind, reduce):
    pool, x, grid = Pool(kind, 5, (3, 3, 3), (1, 2, 2)), draw(2, 3, 1 + 3 * 6 * 4, 5), (3, 6, 4)
    y, new = pool(x, grid)
    assert new == (3, 3, 2)
    assert torch.equal(y[:, :, 0], x[:, :, 0])
    cube = x[:, :, 1:].unflatten(2, grid)
    near = cube[:, :, 0:3, 1:4, 1:4]  # around (1, 2, 2), which is (1, 1, 1) of the pooled grid
    got = y[:, :, 1:].unflatten(2, new)[:, :, 1, 1, 1]
    assert_close(got, getattr(near, reduce)((2, 3, 4)))


def test_average_pool_is_torchs_and_takes_short_clips():
    x = draw(2, 3, 4, 6, 5)
    ours, theirs = (pool((3, 3, 3), (1, 2, 2), (1, 1, 1)) for pool in (mvit.AveragePool3d, nn.AvgPool3d))
    theirs.count_include_pad = False
    assert_close(ours(x), theirs(x))
    assert_close(ours(x[:, :, :1])[:, :, 0], torch.stack([theirs(x[:, :, [0, 0, 0, 0]])[:, :, t] for t in (1,)])[0])


def test_convolutional_pool_is_shared_by_the_heads_and_normalises_the_class_token_too():
    pool, x, grid = randomized(Pool("conv", 5, (3, 3, 3), (1, 2, 2))), draw(2, 3, 1 + 3 * 4 * 4, 5), (3, 4, 4)
    y, new = pool(x, grid)
    assert pool.pool.weight.shape == (5, 1, 3, 3, 3)
    each = torch.cat([pool(x[:, head : head + 1], grid)[0] for head in range(3)], 1)
    assert_close(y, each)
    assert_close(y[:, :, 0], pool.norm(x[:, :, 0]))
    cube = x[:, 1, 1:].unflatten(1, grid)[:, 0:3, 1:4, 1:4]  # (B, 3, 3, 3, d) around (1, 2, 2)
    expected = pool.norm(torch.einsum("bthwd,dthw->bd", cube, pool.pool.weight[:, 0]))
    assert_close(y[:, 1, 1:].unflatten(1, new)[:, 1, 1, 1], expected)


def test_pooled_queries_make_fewer_outputs_and_pooled_keys_do_not():
    x, grid = draw(2, 1 + 2 * 4 * 4, 8), (2, 4, 4)
    y, new, weights = PoolingAttention(8, 2, query_stride=(1, 2, 2))(x, grid, return_weights=True)
    assert (tuple(y.shape), new, tuple(weights.shape)) == ((2, 9, 8), (2, 2, 2), (2, 2, 9, 33))
    y, new, weights = PoolingAttention(8, 2, key_value_stride=(2, 4, 4))(x, grid, return_weights=True)
    assert (tuple(y.shape), new, tuple(weights.shape)) == ((2, 33, 8), grid, (2, 2, 33, 2))


def test_unpooled_attention_is_multi_head_attention():
    from minirsa.layers.attention import MultiHeadAttention

    pooled, plain = PoolingAttention(8, 2, pooling="none"), MultiHeadAttention(8, 2)
    plain.load_state_dict(pooled.state_dict())
    x = draw(2, 9, 8)
    assert_close(pooled(x, (2, 2, 2))[0], plain(x))


@pytest.mark.parametrize("pooling", ["conv", "max", "avg"])
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(pooling):
    video, gradients = draw(2, 3, 4, 32, 32), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = randomized(MViT(**SMALL, pooling=pooling, checkpointing=checkpointing)).train()
        model(video).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, plain in gradients[0].items():
        assert plain is not None
        # one vector added to every key changes no softmax, if nothing in between is not linear
        assert name.endswith("key.bias") or plain.abs().sum() > 0, name
        assert_close(gradients[1][name], plain, atol=1e-5, rtol=1e-4)


def test_other_lengths_and_sizes_are_taken_and_positions_interpolated():
    model = randomized(MViT(**SMALL))
    assert model(draw(1, 3, 7, 40, 64)).shape == (1, 7)
    with torch.no_grad():
        model.time_positions.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 8))
        model.space_positions.zero_()
    longer = model.positions((4, 8, 8)).reshape(4, 64, 8)
    assert_close(longer[:, 5, 3], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_positions_are_a_frames_plus_a_places():
    model = MViT(**SMALL)
    table = model.positions((2, 8, 8)).reshape(2, 64, 8)
    assert_close(table[1, 9], model.time_positions[1] + model.space_positions[9])


def test_stochastic_depth_grows_linearly():
    keeps = [block.stochastic_depth.keep for block in MViT(**SMALL, stochastic_depth=0.2).blocks]
    assert keeps == pytest.approx([1, 0.95, 0.9, 0.85, 0.8])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MViT(**{**SMALL, "stages": ()}), "at least one stage"),
        (lambda: MViT(**{**SMALL, "stages": [Stage(1, 8, 3)]}), "heads must divide width"),
        (lambda: MViT(**SMALL, pooling="sum"), "pooling"),
        (lambda: MViT(**SMALL, pooling="none"), "one stage only"),
        (lambda: MViT(**{**SMALL, "num_classes": 0}), "num_classes"),
        (lambda: MViT(**{**SMALL, "image_size": 2, "stem_kernel": (3, 8, 8), "stem_stride": (2, 8, 8)}), "one cube"),
        (lambda: MViT(**SMALL)(draw(1, 3, 32, 32)), r"\(B, 3, T, H, W\)"),
        (lambda: mvit.vit_base_video(width=24, heads=4, depth=1)(draw(1, 3, 8, 8, 8)), "tubelet"),
        (
            lambda: MViT(**SMALL, **{"stem_kernel": (3, 8, 8), "stem_stride": (2, 8, 8)})(draw(1, 3, 4, 4, 4)),
            "at least",
        ),
        (lambda: PoolingAttention(8, 2, pooling="none", query_stride=(1, 2, 2)), "need a pooling"),
        (lambda: PoolingAttention(8, 3), "heads must divide width"),
        (lambda: Pool("none", 4, (3, 3, 3), (1, 1, 1)), "none"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_builders_take_the_common_keyword_arguments():
    with torch.device("meta"):
        for builder in (mvit.mvit_base_16x4, mvit.mvit_base_32x3, mvit.mvit_small, mvit.vit_base_video):
            model = builder(num_classes=11, num_frames=8, image_size=64)
            assert isinstance(model.head, nn.Linear)
            assert model(torch.empty(1, 3, 8, 64, 64, device="meta")).shape == (1, 11)
