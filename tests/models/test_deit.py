"""DeiT: timm's distilled model with the same weights, both losses written out, counts, and the two heads."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from minirsa import complexity
from minirsa.models import deit
from minirsa.models.deit import (
    DistilledVisionTransformer,
    from_pretrained,
    hard_distillation,
    soft_distillation,
    token_distillation,
    token_similarity,
)

SMALL = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 4, "hidden": 40, "num_classes": 7}
TINY = {"builder": lambda distilled, **options: DistilledVisionTransformer(**options)}


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randomized(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


@pytest.fixture
def peer():
    timm = pytest.importorskip("timm", reason="the parity peer is an extra: pip install minirsa[parity]")
    return randomized(
        timm.models.deit.VisionTransformerDistilled(
            img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=4, mlp_ratio=40 / 24, num_classes=7
        )
    )


@pytest.fixture
def checkpoint(peer, tmp_path):
    save_file(peer.state_dict(), tmp_path / "deit.safetensors")
    return tmp_path / "deit.safetensors"


def test_same_weights_as_timms_distilled_model_give_the_same_logits(peer, checkpoint):
    model = from_pretrained(checkpoint, **TINY, **SMALL).eval()
    images = draw(3, 3, 32, 32)
    assert_close(model(images), peer(images), atol=1e-5, rtol=0)
    logits, weights = model(images, return_weights=True)
    assert_close(logits, peer(images), atol=1e-5, rtol=0)
    assert weights[2].shape == (3, 4, 18, 18)
    own, taught = model.train()(images)
    peer.set_distilled_training(True)
    expected = peer.train()(images)
    assert_close(own, expected[0], atol=1e-5, rtol=0)
    assert_close(taught, expected[1], atol=1e-5, rtol=0)
    assert not torch.allclose(own, taught)


def test_checkpoint_may_have_another_size_and_another_head(peer, checkpoint):
    options = {**SMALL, "image_size": 48, "num_classes": 5}
    with pytest.raises(ValueError, match="head"):
        from_pretrained(checkpoint, **TINY, **options)
    model = from_pretrained(checkpoint, **TINY, keep_head=False, **options)
    assert (model.distillation_head.weight == 0).all()
    assert model.distillation_token.abs().sum() > 0
    save_file({name: tensor for name, tensor in peer.state_dict().items() if name != "dist_token"}, checkpoint)
    with pytest.raises(ValueError, match=r"1 missing \[dist_token\]"):
        from_pretrained(checkpoint, **TINY, **SMALL)
    with pytest.raises(ValueError, match="learned positions"):
        from_pretrained(checkpoint, **TINY, **SMALL, positions="none")


def test_evaluation_averages_the_two_heads_of_training():
    model, images = randomized(DistilledVisionTransformer(**SMALL)), draw(2, 3, 32, 32)
    own, taught = model.train()(images)
    assert_close(model.eval()(images), (own + taught) / 2)


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_the_two_tokens_do_not_start_alike(positions):
    torch.manual_seed(0)
    model = DistilledVisionTransformer(**SMALL, positions=positions)
    y = model.features(draw(2, 3, 32, 32))
    assert y.shape == (2, 2, 24)
    assert not torch.allclose(y[:, 0], y[:, 1], atol=1e-3)


COUNTS = {
    (deit.deit_tiny, False): (5_717_416, 1.25),
    (deit.deit_small, False): (22_050_664, 4.60),
    (deit.deit_base, False): (86_567_656, 17.56),
    (deit.deit_tiny, True): (5_910_800, None),
    (deit.deit_small, True): (22_436_432, None),
    (deit.deit_base, True): (87_338_192, 17.66),
}


@pytest.mark.parametrize(("builder", "distilled"), COUNTS)
def test_parameters_and_multiply_adds(builder, distilled):
    with torch.device("meta"):
        measured = complexity.measure(builder(distilled=distilled).eval(), torch.empty(1, 3, 224, 224, device="meta"))
    params, gmacs = COUNTS[builder, distilled]
    assert measured.params == params
    if gmacs is not None:
        assert measured.macs / 1e9 == pytest.approx(gmacs, rel=4e-3)


def test_base_at_384():
    with torch.device("meta"):
        measured = complexity.measure(deit.deit_base(image_size=384), torch.empty(1, 3, 384, 384, device="meta"))
    assert measured.params == 86_859_496
    assert measured.macs / 1e9 == pytest.approx(55.48, rel=1e-3)


LOGITS, TEACHER, LABELS = draw(4, 5), draw(4, 5, seed=1), torch.tensor([0, 3, 3, 1])


def by_hand(weight, tau):
    """Equation 2 with sums over classes, one image at a time."""
    total = 0.0
    for z, t, y in zip(LOGITS.double(), TEACHER.double(), LABELS):
        cross_entropy = -math.log(z.softmax(0)[y])
        p, q = (t / tau).softmax(0), (z / tau).softmax(0)
        divergence = sum(float(a * (a / b).log()) for a, b in zip(p, q))
        total += (1 - weight) * cross_entropy + weight * tau**2 * divergence
    return total / len(LABELS)


@pytest.mark.parametrize(("weight", "tau"), [(0.1, 3.0), (1.0, 2.0), (0.0, 1.0), (0.5, 0.5)])
def test_soft_distillation_is_equation_2(weight, tau):
    got = soft_distillation(LOGITS, TEACHER, LABELS, weight=weight, temperature=tau)
    assert got.item() == pytest.approx(by_hand(weight, tau), rel=1e-5)


def test_hard_distillation_is_equation_3():
    chosen = TEACHER.argmax(1)
    expected = 0.0
    for z, y, t in zip(LOGITS, LABELS, chosen):
        expected += -0.5 * math.log(z.softmax(0)[y]) - 0.5 * math.log(z.softmax(0)[t])
    assert hard_distillation(LOGITS, TEACHER, LABELS).item() == pytest.approx(expected / 4, rel=1e-5)


def test_the_label_teaches_one_head_and_the_teacher_the_other():
    own, taught = (x.clone().requires_grad_() for x in (LOGITS, draw(4, 5, seed=2)))
    teacher = TEACHER.clone().requires_grad_()
    for kind in ("hard", "soft"):
        before = token_distillation((own, taught), teacher, LABELS, kind=kind, temperature=2.0)
        gradient_own, gradient_taught = torch.autograd.grad(before, (own, taught))
        other = token_distillation((own, taught), teacher, (LABELS + 1) % 5, kind=kind, temperature=2.0)
        assert_close(torch.autograd.grad(other, taught)[0], gradient_taught)
        other = token_distillation((own, taught), teacher.flip(1), LABELS, kind=kind, temperature=2.0)
        assert_close(torch.autograd.grad(other, own)[0], gradient_own)
    assert not before.requires_grad or torch.autograd.grad(
        token_distillation((own, taught), teacher, LABELS, kind="soft"), teacher, allow_unused=True
    ) == (None,)


def test_same_logits_on_both_heads_make_equation_3():
    assert_close(token_distillation((LOGITS, LOGITS), TEACHER, LABELS), hard_distillation(LOGITS, TEACHER, LABELS))


def test_token_similarity_is_the_cosine_before_and_after_every_layer():
    model, images = randomized(DistilledVisionTransformer(**SMALL)), draw(3, 3, 32, 32)
    got = token_similarity(model, images)
    assert got.shape == (4,)
    x = torch.stack([
        model.class_token + model.class_position, model.distillation_token + model.distillation_position
    ]).double()  # fmt: skip
    assert got[0].item() == pytest.approx((x[0] @ x[1] / x[0].norm() / x[1].norm()).item(), abs=1e-5)
    last = []
    model.encoder.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    model(images)
    pairs = [(x[0] @ x[1] / x[0].norm() / x[1].norm()).item() for x in last[0]]
    assert got[3].item() == pytest.approx(sum(pairs) / 3, abs=1e-5)
    with torch.no_grad():
        model.distillation_token.copy_(model.class_token)
        model.distillation_position.copy_(model.class_position)
    assert_close(token_similarity(model, images), torch.ones(4))


def test_gradients_reach_both_tokens_and_heads():
    model = randomized(DistilledVisionTransformer(**SMALL)).train()
    token_distillation(model(draw(4, 3, 32, 32)), draw(4, 7), LABELS).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_stochastic_depth_is_the_papers_by_default():
    for distilled in (False, True):
        layers = deit.deit_tiny(num_classes=3, image_size=32, distilled=distilled).encoder.layers
        assert layers[-1].stochastic_depth.keep == pytest.approx(0.9)
        assert layers[0].stochastic_depth.keep == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DistilledVisionTransformer(**SMALL, pool="mean"), "pool"),
        (lambda: soft_distillation(LOGITS, TEACHER[:, :3], LABELS), r"logits \(B, K\)"),
        (lambda: soft_distillation(LOGITS, TEACHER, LABELS, weight=2), "weight"),
        (lambda: soft_distillation(LOGITS, TEACHER, LABELS, temperature=0), "temperature"),
        (lambda: hard_distillation(LOGITS, TEACHER, LABELS[:2]), r"labels \(B,\)"),
        (lambda: token_distillation(LOGITS, TEACHER, LABELS), "class logits, distillation logits"),
        (lambda: token_distillation((LOGITS, LOGITS), TEACHER, LABELS, kind="firm"), "firm"),
        (lambda: token_distillation((LOGITS, LOGITS), TEACHER, LABELS, weight=-1), "weight"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()
