"""The whole Transformer: torch.nn.Transformer's outputs, masks that hide what they should only, cached decoding."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from minirsa.complexity import measure
from minirsa.data.translation import PAD, SOURCE, TARGET, DateSet
from minirsa.layers.positions import sinusoidal_positions
from minirsa.models.decoding import beam_search, greedy
from minirsa.models.transformer import Transformer, transformer_base, transformer_big
from minirsa.training.translation import fit_translation, noam_rate

SMALL = {"width": 16, "heads": 4, "hidden": 24, "depth": (2, 3), "dropout": 0.0}


def randomised(model, seed=0):
    """Every parameter random, norms and biases too: what starts at 0 or 1 would hide a mistake."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3 + (parameter.ndim == 1) * 0.5)
    return model.eval()


def batch_of(language="both", size=5, seed=0):
    return DateSet(size, seed=seed, language=language).batch(range(size))


def small(seed=0, **options):
    return randomised(Transformer(len(SOURCE), len(TARGET), **(SMALL | options)), seed)


ATTENTION = {"query": 0, "key": 1, "value": 2}


def load_attention(theirs, ours):
    for name, place in ATTENTION.items():
        rows = slice(place * ours.width, (place + 1) * ours.width)
        theirs.in_proj_weight[rows] = getattr(ours, name).weight
        theirs.in_proj_bias[rows] = getattr(ours, name).bias
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def load_torch(theirs, ours):
    """Our weights into torch.nn.Transformer."""
    for stack in ("encoder", "decoder"):
        mine, its = getattr(ours, stack), getattr(theirs, stack)
        if mine.norm is None:
            its.norm = None  # torch always puts one there
        else:
            its.norm.load_state_dict(mine.norm.state_dict())
        for a, b in zip(mine.layers, its.layers, strict=True):
            if stack == "encoder":
                load_attention(b.self_attn, a.attention)
                norms = (a.attention_norm, a.feed_forward_norm)
            else:
                load_attention(b.self_attn, a.self_attention)
                load_attention(b.multihead_attn, a.cross_attention)
                norms = (a.self_attention_norm, a.cross_attention_norm, a.feed_forward_norm)
            for number, norm in enumerate(norms, 1):
                getattr(b, f"norm{number}").load_state_dict(norm.state_dict())
            b.linear1.load_state_dict(a.feed_forward.expand.state_dict())
            b.linear2.load_state_dict(a.feed_forward.contract.state_dict())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(("activation", "eps"), [("relu", 1e-5), ("gelu", 1e-2)])
def test_same_weights_same_outputs_as_torch(norm, activation, eps, dtype, tolerance):
    ours = small(norm=norm, activation=activation, eps=eps).to(dtype)
    options = {"activation": activation, "layer_norm_eps": eps, "norm_first": norm == "pre", "dtype": dtype}
    theirs = nn.Transformer(16, 4, 2, 3, 24, dropout=0.0, batch_first=True, **options).eval()
    load_torch(theirs, ours)
    source, lengths, target = batch_of()
    padding = torch.arange(source.shape[1]) >= lengths[:, None]
    future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
    embedded = [
        table.weight[tokens] * math.sqrt(16) + sinusoidal_positions(tokens.shape[1], 16, dtype=dtype)
        for table, tokens in ((ours.source_embedding, source), (ours.target_embedding, target))
    ]
    with torch.no_grad():
        x = theirs(*embedded, tgt_mask=future, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        expected = x @ ours.target_embedding.weight.T
        logits = ours(source, lengths, target)
    assert logits.abs().mean() > 0.3
    torch.testing.assert_close(logits / logits.std(), expected / logits.std(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_and_the_future_change_nothing_and_everything_else_does(norm):
    model = small(norm=norm).double()
    source, lengths, target = batch_of(size=6, seed=1)
    with torch.no_grad():
        logits = model(source, lengths, target)
        padded = torch.cat([source, torch.full((6, 3), 7)], 1)  # longer, and no token where PAD was
        padded[:, : source.shape[1]] = torch.where(source == PAD, 9, source)
        torch.testing.assert_close(model(padded, lengths, target), logits, rtol=0, atol=1e-12)
        for place in range(1, target.shape[1]):
            changed = target.clone()
            changed[:, place] = (changed[:, place] + 1) % len(TARGET)
            difference = (model(source, lengths, changed) - logits).abs().amax(2)  # (B, m)
            assert (difference[:, :place] == 0).all(), "a later token reached an earlier position"
            assert (difference[:, place:] > 1e-9).all(), "a token reaches its own and every later position"
        for row in range(6):
            for place in range(int(lengths[row])):
                changed = source.clone()
                changed[row, place] = 4 if source[row, place] != 4 else 5
                difference = (model(changed, lengths, target) - logits).abs().amax((1, 2))
                assert difference[row] > 1e-9, "every source token matters"
                assert difference[torch.arange(6) != row].max() == 0, "to its own sentence alone"


def test_order_matters_by_positions_alone():
    """Without positions the encoder is blind to order: swapped tokens give the same memory, swapped."""
    model = small().double()
    source, lengths = torch.tensor([[5, 9, 12, 7]]), torch.tensor([4])
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        memory, _ = model.encode(source, lengths)
        moved, _ = model.encode(source[:, order], lengths)
        assert (memory[:, order] - moved).abs().max() > 0.1
        model.positions = nn.Module()
        model.positions.forward = lambda x, start=0: x
        memory, _ = model.encode(source, lengths)
        moved, _ = model.encode(source[:, order], lengths)
    torch.testing.assert_close(memory[:, order], moved)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_steps_with_and_without_cache_are_the_whole_pass(norm):
    model = small(norm=norm).double()
    source, lengths, target = batch_of(seed=2)
    with torch.no_grad():
        whole = model(source, lengths, target).log_softmax(-1)
        for cache in (True, False):
            state = model.start(source, lengths, cache=cache)
            for place in range(target.shape[1]):
                log_probabilities, state = model.step(target[:, place], state)
                torch.testing.assert_close(log_probabilities, whole[:, place], rtol=0, atol=1e-12)
    assert torch.equal(state.written, target)


def test_select_repeats_and_reorders_and_an_old_state_stays_as_it_was():
    model = small().double()
    source, lengths, target = batch_of(seed=3)
    rows = torch.tensor([4, 1, 1])
    with torch.no_grad():
        whole = model(source[rows], lengths[rows], target[rows]).log_softmax(-1)
        state = model.start(source, lengths)
        _, state = model.step(target[:, 0], state)
        first, _ = model.step(target[:, 1], state)
        chosen = state.select(rows)
        for place in range(1, 4):
            log_probabilities, chosen = model.step(target[rows, place], chosen)
            torch.testing.assert_close(log_probabilities, whole[:, place], rtol=0, atol=1e-12)
        again, _ = model.step(target[:, 1], state)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize("beam", [1, 3])
def test_searches_write_the_same_tokens_with_and_without_cache(beam):
    model = small(seed=1, norm="pre", share_embeddings="none").double()
    with torch.no_grad():
        for layer in model.decoder.layers:  # the source has to be heard, or every answer is the same
            layer.cross_attention.query.weight *= 4
            layer.cross_attention.output.weight *= 4
    source, lengths, _ = batch_of(size=8, seed=4)

    class Anew:
        start, step = partial(model.start, cache=False), staticmethod(model.step)

    cached, anew = (greedy(it, source, lengths, max_length=12) for it in (model, Anew()))
    assert torch.equal(cached.tokens, anew.tokens)
    torch.testing.assert_close(cached.scores, anew.scores)
    assert len(set(map(tuple, cached.tokens.tolist()))) > 3
    found = [beam_search(it, source, lengths, beam=beam, max_length=12) for it in (model, Anew())]
    for one, other in zip(*found):
        assert [answer.tokens for answer in one] == [answer.tokens for answer in other]


def test_a_cache_saves_most_of_the_work():
    """Multiply-adds of writing 22 tokens: the decoder's share falls by more than half."""
    model = Transformer(len(SOURCE), len(TARGET), width=64, heads=4, hidden=128, depth=2).eval()

    class Writing(nn.Module):
        def __init__(self, cache):
            super().__init__()
            self.model, self.cache = model, cache

        def forward(self, source, lengths):
            state = self.model.start(source, lengths, cache=self.cache)
            for _ in range(22):
                out, state = self.model.step(lengths * 0 + 5, state)
            return out

    inputs = torch.zeros(1, 20, dtype=torch.int64), torch.tensor([20])
    encoder = measure(_Encoding(model), *inputs).macs
    with_cache, without = (measure(Writing(cache), *inputs).macs - encoder for cache in (True, False))
    width, hidden, layers, m, n = 64, 128, 2, 22, 20
    a_token = layers * (6 * width**2 + 2 * width * hidden)  # four projections of itself, two to ask the memory, FFN
    once = layers * 2 * n * width**2 + m * width * len(TARGET)  # the memory's keys and values; the logits
    attended = layers * 2 * width * (m * (m + 1) // 2 + m * n)
    assert with_cache == m * a_token + once + attended
    steps = range(1, m + 1)
    assert without == sum(
        t * a_token + layers * (2 * n * width**2 + 2 * width * (t * t + t * n)) + width * len(TARGET) for t in steps
    )
    assert without > 8 * with_cache


class _Encoding(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source, lengths):
        return self.model.encode(source, lengths)[0]


def test_weights_are_those_that_were_used():
    model = small().double()
    source, lengths, target = batch_of(seed=6)
    with torch.no_grad():
        plain = model(source, lengths, target)
        logits, weights = model(source, lengths, target, return_weights=True)
    torch.testing.assert_close(logits, plain)
    n, m = source.shape[1], target.shape[1]
    assert [tuple(w.shape) for w in weights.encoder] == [(5, 4, n, n)] * 2
    assert [tuple(w.shape) for w in weights.decoder] == [(5, 4, m, m)] * 3
    assert [tuple(w.shape) for w in weights.cross] == [(5, 4, m, n)] * 3
    words = (torch.arange(n) < lengths[:, None])[:, None, None]
    for maps in (*weights.encoder, *weights.cross):
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))
        assert (maps.masked_select(~words) == 0).all()
        assert (maps.masked_select(words) > 0).all()
    for maps in weights.decoder:
        assert (maps.triu(1) == 0).all()


def test_shared_embeddings_are_one_matrix():
    one = Transformer(30, 30, **SMALL, share_embeddings="all")
    assert one.source_embedding is one.target_embedding
    assert one.output.weight is one.target_embedding.weight
    two = Transformer(40, 30, **SMALL)
    assert two.output.weight is two.target_embedding.weight is not two.source_embedding.weight
    three = Transformer(40, 30, **SMALL, share_embeddings="none")
    assert three.output.weight is not three.target_embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (one, two, three)]
    assert count[1] - count[0] == 40 * 16
    assert count[2] - count[1] == 30 * 16


def test_embeddings_start_at_the_scale_of_the_positions():
    model = Transformer(1000, 1000, width=64, heads=4, hidden=64, depth=1, share_embeddings="all")
    embedded = model.target_embedding.weight.detach() * 64**0.5
    assert embedded.std().item() == pytest.approx(1.0, rel=0.02)
    logits = model.eval()(torch.randint(3, 1000, (4, 9)), torch.full((4,), 9), torch.randint(3, 1000, (4, 9)))
    assert 0.5 < logits.std().item() < 2, "an untrained net's logits are of order one"


def test_published_sizes_are_counted():
    with torch.device("meta"):
        models = {"base": transformer_base(), "big": transformer_big()}
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert count == {"base": 63_082_496, "big": 214_245_376}
    assert count["base"] / 65e6 == pytest.approx(1, abs=0.035)  # table 3, printed in whole millions
    assert count["big"] / 213e6 == pytest.approx(1, abs=0.01)
    assert models["big"].dropout.p == 0.3
    assert models["base"].dropout.p == 0.1
    assert len(models["base"].encoder.layers) == len(models["base"].decoder.layers) == 6
    with torch.device("meta"):
        assert transformer_base(100, depth=1, norm="pre").encoder.norm is not None


def test_a_few_steps_of_training_learn_something():
    torch.manual_seed(0)
    model = Transformer(len(SOURCE), len(TARGET), width=32, heads=2, hidden=64, depth=1, dropout=0.0)
    data = DateSet(16 * 40, language="korean", dates=(1, 1))
    losses = fit_translation(model, data.batches(16), rate=noam_rate(32, 40), steps=40, label_smoothing=0.1)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("options", "reason"), [
    ({"share_embeddings": "all"}, "one vocabulary"),
    ({"share_embeddings": True}, "among"),
    ({"heads": 3}, "heads must divide"),
    ({"dropout": 1.0}, "dropout"),
    ({"norm": "both"}, "norm"),
    ({"depth": 0}, "depth"),
    ({"depth": (1, 2, 3)}, "one for the encoder and one for the decoder"),
    ({"depth": 1.5}, "one for the encoder and one for the decoder"),
    ({"width": 0}, "width from 1"),
    ({"width": 15, "heads": 5}, "even width"),
])  # fmt: skip
def test_impossible_models_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Transformer(40, 30, **(SMALL | options))


def test_wrong_inputs_are_refused():
    model = small()
    source, lengths, target = batch_of()
    with pytest.raises(ValueError, match=r"source \(B, n\)"):
        model(source[0], lengths, target)
    with pytest.raises(ValueError, match=r"source \(B, n\)"):
        model(source, lengths[:2], target)
    with pytest.raises(ValueError, match="1 to"):
        model(source, lengths * 0, target)
    with pytest.raises(ValueError, match="1 to"):
        model(source, lengths + source.shape[1], target)
    with pytest.raises(ValueError, match=r"target \(5, m\)"):
        model(source, lengths, target[:3])
    with pytest.raises(ValueError, match=r"tokens \(5,\)"):
        model.step(target[:3, 0], model.start(source, lengths))


def test_one_seed_gives_one_set_of_weights():
    """Whatever the addresses of the embeddings: with sets in place of sequences this differed from run to run."""
    kept = []
    for _ in range(12):
        torch.manual_seed(0)
        kept.append(Transformer(7, 5, width=8, heads=2, hidden=8, depth=1))
    for model in kept[1:]:
        for (name, weight), other in zip(kept[0].state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(weight, other), name
