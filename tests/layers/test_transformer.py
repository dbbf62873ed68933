"""Encoder and decoder layers: torch.nn's with the same weights, both norms, masks, the cache, and gradients."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minirsa.layers.attention import padding_mask
from minirsa.layers.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward

WIDTH, HEADS, HIDDEN = 8, 2, 12


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(module, seed=0):
    module = module.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return module


def copy(target, source):
    with torch.no_grad():
        target.weight.copy_(source.weight)
        target.bias.copy_(source.bias)


def copy_attention(target, source):
    with torch.no_grad():
        target.in_proj_weight.copy_(torch.cat([source.query.weight, source.key.weight, source.value.weight]))
        target.in_proj_bias.copy_(torch.cat([source.query.bias, source.key.bias, source.value.bias]))
    copy(target.out_proj, source.output)


def torch_encoder(ours, norm, activation, eps):
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, activation, eps, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    last = nn.LayerNorm(WIDTH, eps=eps, dtype=torch.float64) if norm == "pre" else None
    theirs = nn.TransformerEncoder(layer, len(ours.layers), last, enable_nested_tensor=False).eval()
    for target, source in zip(theirs.layers, ours.layers):
        copy_attention(target.self_attn, source.attention)
        for name, part in (
            ("linear1", source.feed_forward.expand),
            ("linear2", source.feed_forward.contract),
            ("norm1", source.attention_norm),
            ("norm2", source.feed_forward_norm),
        ):
            copy(getattr(target, name), part)
    if last is not None:
        copy(theirs.norm, ours.norm)
    return theirs


def torch_decoder(ours, norm, activation, eps):
    layer = nn.TransformerDecoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, activation, eps, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    last = nn.LayerNorm(WIDTH, eps=eps, dtype=torch.float64) if norm == "pre" else None
    theirs = nn.TransformerDecoder(layer, len(ours.layers), last).eval()
    for target, source in zip(theirs.layers, ours.layers):
        copy_attention(target.self_attn, source.self_attention)
        copy_attention(target.multihead_attn, source.cross_attention)
        for name, part in (
            ("linear1", source.feed_forward.expand),
            ("linear2", source.feed_forward.contract),
            ("norm1", source.self_attention_norm),
            ("norm2", source.cross_attention_norm),
            ("norm3", source.feed_forward_norm),
        ):
            copy(getattr(target, name), part)
    if last is not None:
        copy(theirs.norm, ours.norm)
    return theirs


TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0]])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("activation", "eps"), [("relu", 1e-5), ("gelu", 1e-2)])
def test_encoder_is_torchs_with_the_same_weights(norm, activation, eps):
    ours = randomized(Encoder(3, WIDTH, HEADS, HIDDEN, norm=norm, activation=activation, eps=eps))
    theirs = torch_encoder(ours, norm, activation, eps)
    x = draw(2, 5, WIDTH)
    assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)
    expected = theirs(x, src_key_padding_mask=TOKENS == 0)
    for got in (ours(x, mask=padding_mask(TOKENS)), ours(x, mask=padding_mask(TOKENS), return_weights=True)[0]):
        assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("activation", "eps"), [("relu", 1e-5), ("gelu", 1e-2)])
def test_decoder_is_torchs_with_the_same_weights(norm, activation, eps):
    ours = randomized(Decoder(3, WIDTH, HEADS, HIDDEN, norm=norm, activation=activation, eps=eps))
    theirs = torch_decoder(ours, norm, activation, eps)
    x, memory = draw(2, 4, WIDTH), draw(2, 5, WIDTH, seed=1)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = theirs(x, memory, tgt_mask=hidden, memory_key_padding_mask=TOKENS == 0)
    assert_close(ours(x, memory, memory_mask=padding_mask(TOKENS)), expected, atol=1e-12, rtol=0)
    got, weights = ours(x, memory, memory_mask=padding_mask(TOKENS), return_weights=True)
    assert_close(got, expected, atol=1e-12, rtol=0)
    assert len(weights) == 3
    assert weights[0][0].shape == (2, HEADS, 4, 4)
    assert weights[0][1].shape == (2, HEADS, 4, 5)
    assert (weights[2][1][1, :, :, 2:] == 0).all()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_decoder_takes_a_padding_mask_of_its_own_on_top_of_the_causal_one(norm):
    decoder, memory = randomized(Decoder(2, WIDTH, HEADS, HIDDEN, norm=norm)), draw(2, 3, WIDTH, seed=1)
    x, mask = draw(2, 5, WIDTH), padding_mask(torch.tensor([[0, 0, 3, 1, 4], [9, 2, 6, 5, 3]]))
    before = decoder(x, memory, mask=mask)
    x[0, :2] = 7.0
    after = decoder(x, memory, mask=mask)
    assert_close(after[0, 2:], before[0, 2:])
    assert_close(after[1], before[1])
    x[1, 3, 0] += 1.0  # not on all channels: a norm would take it out again
    later = decoder(x, memory, mask=mask)
    assert_close(later[1, :3], before[1, :3])
    assert not (later[1, 3:] == before[1, 3:]).any()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_cached_decoding_equals_the_whole_sequence(norm):
    decoder = randomized(Decoder(2, WIDTH, HEADS, HIDDEN, norm=norm))
    x, memory, mask = draw(2, 6, WIDTH), draw(2, 5, WIDTH, seed=1), padding_mask(TOKENS)
    whole = decoder(x, memory, memory_mask=mask)
    cache = decoder.start_cache()
    steps = [decoder(x[:, i : i + 1], memory, memory_mask=mask, cache=cache) for i in range(4)]
    assert_close(torch.cat(steps, 1), whole[:, :4])
    rows = torch.tensor([1, 0, 1])
    chosen = [layer.select(rows) for layer in cache]
    rest = decoder(x[rows, 4:], memory[rows], memory_mask=mask[rows], cache=chosen)  # two tokens at once
    assert_close(rest, whole[rows, 4:])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_of_both_layers_in_float64(norm):
    x, memory = draw(1, 3, WIDTH).requires_grad_(), draw(1, 2, WIDTH, seed=1).requires_grad_()
    options = {"norm": norm, "activation": "gelu"}
    assert torch.autograd.gradcheck(randomized(EncoderLayer(WIDTH, HEADS, HIDDEN, **options)), (x,))
    assert torch.autograd.gradcheck(randomized(DecoderLayer(WIDTH, HEADS, HIDDEN, **options)), (x, memory))


def test_pre_ln_keeps_a_plain_residual_stream_and_post_ln_ends_normalised():
    x = draw(2, 5, WIDTH) * 10
    pre, post = (EncoderLayer(WIDTH, HEADS, HIDDEN, norm=norm).double().eval() for norm in ("pre", "post"))
    with torch.no_grad():
        for layer in (pre, post):
            layer.attention.output.weight.zero_()
            layer.feed_forward.contract.weight.zero_()
    assert_close(pre(x), x)
    assert_close(post(x).std(-1, unbiased=False), torch.ones(2, 5, dtype=torch.float64), atol=1e-4, rtol=0)
    assert Encoder(1, WIDTH, HEADS, HIDDEN, norm="post").norm is None
    assert Encoder(1, WIDTH, HEADS, HIDDEN, norm="pre", eps=0.5).norm.eps == 0.5


def test_dropout_acts_in_training_only_and_on_every_sublayer():
    layer = EncoderLayer(WIDTH, HEADS, HIDDEN, norm="pre", dropout=0.999999).double()
    x = draw(2, 5, WIDTH)
    torch.manual_seed(0)
    assert_close(layer.train()(x), x)  # both sublayers are dropped: the residual stream passes
    assert not torch.allclose(layer.eval()(x), x)


def test_feed_forward_is_the_formula_at_each_position():
    layer, x = randomized(FeedForward(WIDTH, HIDDEN)), draw(2, 5, WIDTH)
    hidden = (x @ layer.expand.weight.T + layer.expand.bias).clamp(min=0)
    assert_close(layer(x), hidden @ layer.contract.weight.T + layer.contract.bias)
    assert_close(layer(x)[:, 2], layer(x[:, 2]))


@pytest.mark.parametrize(("name", "flavour"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_the_two_flavours_of_gelu_are_told_apart(name, flavour):
    layer, x = FeedForward(2, 2, activation=name), torch.linspace(-3, 3, 60, dtype=torch.float64).reshape(30, 2)
    assert_close(layer.activation(x), nn.functional.gelu(x, approximate=flavour), atol=1e-12, rtol=0)


def test_linear_layers_start_xavier_uniform_with_zero_biases():
    torch.manual_seed(0)
    layer = DecoderLayer(64, 4, 256)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.98 * bound < module.weight.abs().max() <= bound
            assert (module.bias == 0).all()


X = torch.zeros(2, 5, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EncoderLayer(8, 3, 16), "heads must divide width"),
        (lambda: EncoderLayer(8, 2, 16, norm="first"), "post.*pre.*first"),
        (lambda: EncoderLayer(8, 2, 16, activation="swish"), "gelu.*gelu_tanh.*relu.*swish"),
        (lambda: EncoderLayer(8, 2, 0), "hidden"),
        (lambda: EncoderLayer(8, 2, 16, stochastic_depth=1.0), "keeping"),
        (lambda: Encoder(0, 8, 2, 16), "depth"),
        (lambda: Decoder(0, 8, 2, 16), "depth"),
        (lambda: EncoderLayer(8, 2, 16)(X[0]), r"\(B, n, 8\)"),
        (lambda: EncoderLayer(8, 2, 16)(X, mask=torch.ones(5, 5)), "torch.bool"),
        (lambda: DecoderLayer(8, 2, 16)(X, X[:1]), "batch"),
        (lambda: DecoderLayer(8, 2, 16)(X, None), "memory.*None"),
        (lambda: DecoderLayer(8, 2, 16)(X, X, mask=torch.ones(5, 5)), "torch.bool"),
        (lambda: DecoderLayer(8, 2, 16)(X, X, mask=[True]), "torch.bool"),
        (lambda: DecoderLayer(8, 2, 16)(X, X, mask=torch.ones(5, 4, dtype=torch.bool)), "broadcasts"),
        (lambda: DecoderLayer(8, 2, 16)(X, X, memory_mask=torch.ones(5, 5)), "torch.bool"),
        (lambda: Decoder(2, 8, 2, 16)(X, X, cache=[]), "2 layers, got 0"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_stochastic_depth_grows_from_zero_to_the_last_layer():
    encoder = Encoder(5, WIDTH, HEADS, HIDDEN, norm="pre", stochastic_depth=0.2)
    assert [layer.stochastic_depth.keep for layer in encoder.layers] == pytest.approx([1, 0.95, 0.9, 0.85, 0.8])
    torch.manual_seed(0)
    last, x = encoder.layers[-1].double().train(), draw(400, 2, WIDTH)
    last.dropout.p = 0.0
    same = (last(x) == x).all(-1).all(-1).double().mean()  # both sublayers left out
    assert 0.01 < same < 0.09
