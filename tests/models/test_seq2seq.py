"""The recurrent translator: padding, order of steps, state, input feeding and what attention is given."""

import pytest
import torch

from minirsa.layers.luong import LocalAttention, LuongAttention
from minirsa.models.seq2seq import ATTENTIONS, Seq2Seq

SOURCE = torch.tensor([[5, 6, 7, 8, 9], [4, 3, 2, 0, 0], [7, 7, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 2])
TARGET = torch.tensor([[1, 4, 5, 6], [1, 6, 3, 4], [1, 3, 3, 2]])


def net(attention="general", **options):
    torch.manual_seed(0)
    return Seq2Seq(10, 7, width=8, attention=attention, window=2, **options).double().eval()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("input_feeding", [True, False])
def test_steps_give_what_forward_gives(attention, input_feeding):
    model = net(attention, input_feeding=input_feeding)
    logits = model(SOURCE, LENGTHS, TARGET)
    assert logits.shape == (3, 4, 7)
    state = model.start(SOURCE, LENGTHS)
    for t in range(4):
        scores, state = model.step(TARGET[:, t], state)
        torch.testing.assert_close(scores, logits[:, t].log_softmax(-1))
    assert state.position == 4


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_changes_nothing(attention):
    model = net(attention)
    logits = model(SOURCE, LENGTHS, TARGET)
    other = torch.where(SOURCE == 0, 3, SOURCE)
    torch.testing.assert_close(model(other, LENGTHS, TARGET), logits, rtol=0, atol=0)
    alone = model(SOURCE[1:2, :3], LENGTHS[1:2], TARGET[1:2])
    torch.testing.assert_close(alone[0], logits[1])
    changed = SOURCE.clone()
    changed[1, 0] += 1
    assert not torch.allclose(model(changed, LENGTHS, TARGET)[1], logits[1])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_later_target_tokens_do_not_reach_back(attention):
    model = net(attention)
    logits = model(SOURCE, LENGTHS, TARGET)
    later = TARGET.clone()
    later[:, 2:] = 2
    torch.testing.assert_close(model(SOURCE, LENGTHS, later)[:, :2], logits[:, :2])
    assert not torch.allclose(model(SOURCE, LENGTHS, later)[:, 2:], logits[:, 2:])


def test_without_attention_the_state_is_all_that_is_known_of_the_source():
    model = net(None)
    state = model.start(SOURCE, LENGTHS)
    expected, _ = model.step(TARGET[:, 0], state)
    state.memory.normal_()
    torch.testing.assert_close(model.step(TARGET[:, 0], state)[0], expected, rtol=0, atol=0)
    attentive = net("dot")
    state = attentive.start(SOURCE, LENGTHS)
    expected, _ = attentive.step(TARGET[:, 0], state)
    state.memory.normal_()
    assert not torch.allclose(attentive.step(TARGET[:, 0], state)[0], expected)


@pytest.mark.parametrize("attention", ATTENTIONS[1:])
def test_weights_are_those_of_the_words(attention):
    model = net(attention)
    logits, weights = model(SOURCE, LENGTHS, TARGET, return_weights=True)
    torch.testing.assert_close(logits, model(SOURCE, LENGTHS, TARGET))
    assert weights.shape == (3, 4, 5)
    assert (weights[1, :, 3:] == 0).all()
    assert (weights >= 0).all()
    total = weights.sum(-1)
    if attention in ("dot", "general", "concat"):
        torch.testing.assert_close(total, torch.ones_like(total))
    else:
        assert (total < 1 + 1e-12).all()


def test_attentional_vector_is_equation_5_and_the_logits_equation_6():
    model = net("dot", input_feeding=False)
    state = model.start(SOURCE[:1], LENGTHS[:1])
    h, _ = model.decoder(model.target_embedding(TARGET[:1, :1]), (state.hidden, state.cell))
    h = h[0, 0]
    weights = (state.memory[0] @ h).softmax(0)
    context = weights @ state.memory[0]
    attentional = torch.tanh(model.combine.weight @ torch.cat([context, h]))
    torch.testing.assert_close(model(SOURCE[:1], LENGTHS[:1], TARGET[:1])[0, 0], model.output.weight @ attentional)


def test_input_feeding_hands_on_the_attentional_vector():
    model = net("dot")
    assert model.decoder.input_size == 16
    state = model.start(SOURCE, LENGTHS)
    assert (state.fed == 0).all()
    _, state = model.step(TARGET[:, 0], state)
    expected, _ = model.step(TARGET[:, 1], state)
    state.fed.zero_()
    assert not torch.allclose(model.step(TARGET[:, 1], state)[0], expected)
    assert net("dot", input_feeding=False).decoder.input_size == net(None).decoder.input_size == 8


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_selected_rows_go_on_as_they_would_have(attention):
    model = net(attention)
    _, state = model.step(TARGET[:, 0], model.start(SOURCE, LENGTHS))
    expected, _ = model.step(TARGET[:, 1], state)
    rows = torch.tensor([2, 0, 2, 1])
    torch.testing.assert_close(model.step(TARGET[rows, 1], state.select(rows))[0], expected[rows])


def test_local_windows_go_on_where_a_first_part_of_the_target_ended():
    model = net("local-m", input_feeding=False)
    whole, _, _ = model._advance(model.target_embedding(TARGET), model.start(SOURCE, LENGTHS), False)
    first, state, _ = model._advance(model.target_embedding(TARGET[:, :2]), model.start(SOURCE, LENGTHS), False)
    second, state, _ = model._advance(model.target_embedding(TARGET[:, 2:]), state, False)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert state.position == 4


def test_the_encoder_starts_the_decoder_with_the_last_word():
    model = net(None)
    state = model.start(SOURCE, LENGTHS)
    _, (hidden, cell) = model.encoder(model.source_embedding(SOURCE[1:2, :3]))
    torch.testing.assert_close((state.hidden[:, 1:2], state.cell[:, 1:2]), (hidden, cell))


def test_gradients_of_the_whole_are_those_of_the_function():
    torch.manual_seed(0)
    model = Seq2Seq(10, 7, width=2, layers=1, attention="local-p", window=2).double()
    weights = [parameter for parameter in model.parameters() if parameter.numel() <= 16]
    assert len(weights) > 9

    def loss(*_):
        return model(SOURCE[1:], LENGTHS[1:], TARGET[1:]).logsumexp(-1).sum()

    assert torch.autograd.gradcheck(loss, weights)


def test_modules_are_those_asked_for():
    for name in ("dot", "general", "concat"):
        attention = net(name).attention
        assert isinstance(attention, LuongAttention)
        assert attention.score.kind == name
    for name, alignment in (("local-m", "monotonic"), ("local-p", "predictive")):
        attention = net(name).attention
        assert isinstance(attention, LocalAttention)
        assert (attention.alignment, attention.window) == (alignment, 2)
    assert net(None).attention is None
    assert net("dot", layers=3).encoder.num_layers == 3


def test_dropout_is_only_for_training():
    model = net("general", dropout=0.5)
    torch.testing.assert_close(model(SOURCE, LENGTHS, TARGET), model(SOURCE, LENGTHS, TARGET))
    for training in (model.train(), net("general", layers=1, dropout=0.5).train()):  # one layer: before the logits
        assert not torch.allclose(training(SOURCE, LENGTHS, TARGET), training(SOURCE, LENGTHS, TARGET))


def test_dropout_stands_between_the_layers_of_both_lstms(recwarn):
    model = net("general", dropout=0.5)
    assert model.encoder.dropout == model.decoder.dropout == model.dropout.p == 0.5
    assert net("general", layers=1, dropout=0.5).encoder.dropout == 0  # nothing to stand between
    assert not recwarn.list


@pytest.mark.parametrize("options", [
    {"width": 0}, {"layers": 0}, {"attention": "additive"}, {"attention": "local-p", "window": 0}, {"dropout": 1.0},
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Seq2Seq(10, 7, **options)


@pytest.mark.parametrize(("source", "lengths", "target"), [
    (SOURCE[0], LENGTHS, TARGET),
    (SOURCE, LENGTHS[:2], TARGET),
    (SOURCE, torch.tensor([5, 0, 2]), TARGET),
    (SOURCE, torch.tensor([6, 3, 2]), TARGET),
    (SOURCE[:0], LENGTHS[:0], TARGET[:0]),
    (SOURCE.float(), LENGTHS, TARGET),
    (SOURCE, LENGTHS.float(), TARGET),
    (SOURCE, LENGTHS, TARGET[:2]),
    (SOURCE, LENGTHS, TARGET[:, :0]),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(source, lengths, target):
    with pytest.raises(ValueError, match="expected"):
        net()(source, lengths, target)


def test_a_net_without_attention_has_no_weights_to_return():
    with pytest.raises(ValueError, match="no alignment weights"):
        net(None)(SOURCE, LENGTHS, TARGET, return_weights=True)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_step_needs_one_token_for_each_source(attention):
    translator = net(attention)
    state = translator.start(SOURCE, LENGTHS)
    for tokens in (torch.tensor([1]), torch.ones(len(SOURCE), 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"expected tokens \(3,\)"):
            translator.step(tokens, state)
