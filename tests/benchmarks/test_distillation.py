"""The distillation benchmark: what its students see and are told, and that its committed results are whole."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import distillation
from benchmarks.provenance import ROOT
from minirsa.models.checkpoint import load_model
from minirsa.models.deit import DistilledVisionTransformer
from minirsa.training.images import shape_images

RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"


@pytest.fixture
def small(monkeypatch):
    """The benchmark with a few images and steps."""
    monkeypatch.setattr(distillation, "TEST_IMAGES", 40)
    for cues, part in distillation.PARTS.items():
        teacher, student = (dataclasses.replace(r, steps=3, batch_size=8) for r in (part.teacher, part.student))
        tiny = dataclasses.replace(part, images=24, teacher=teacher, student=student)
        monkeypatch.setitem(distillation.PARTS, cues, tiny)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["distillation.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        distillation.main()
    finally:
        torch.set_num_threads(threads)


def test_students_with_and_without_a_second_token_start_alike():
    one, two = (distillation.make_student(distilled, seed=3) for distilled in (False, True))
    assert isinstance(two, DistilledVisionTransformer)
    mine, theirs = one.state_dict(), two.state_dict()
    assert set(theirs) - set(mine) == {
        "distillation_token", "distillation_position", "distillation_head.weight", "distillation_head.bias"
    }  # fmt: skip
    for name in set(mine) - {"class_token"}:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=0)
    other = distillation.make_student(True, seed=4)
    assert not torch.equal(other.patch_embedding.weight, two.patch_embedding.weight)
    assert F.cosine_similarity(two.class_token, two.distillation_token, dim=0).abs() < 0.6


def test_teacher_answers_for_the_very_batches_that_students_see(small):
    teacher, recipe = distillation.make_teacher(0).eval(), distillation.PARTS["agree"].student
    given, agreement = distillation.answers(teacher, 0, "agree")
    assert given.shape == (3, 8, 8)
    seen, told = [], []
    student = distillation.make_student(False, 0)
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with pytest.MonkeyPatch.context() as patch:
        watched = {"watched": (False, lambda out, taught, labels: (told.append((taught, labels)), out.mean())[1])}
        patch.setattr(distillation, "METHODS", watched)
        patch.setattr(distillation, "make_student", lambda distilled, seed: student)
        distillation.train_student("watched", 0, "agree", given)
    assert len(seen) == 3
    plain = list(distillation.batches(recipe, 0, "agree"))
    either = []
    with torch.no_grad():
        for step, images in enumerate(seen):
            torch.testing.assert_close(teacher(images), given[step])
            (taught, first), (again, second) = told[2 * step : 2 * step + 2]
            assert taught is again
            torch.testing.assert_close(taught, given[step])
            torch.testing.assert_close(first, plain[step][1])
            torch.testing.assert_close(second, plain[step][1].flip(0))
            decision = given[step].argmax(1)
            either.append(((decision == first) | (decision == second)).float().mean().item())
        data = shape_images(24, seed=0, cues="agree")
        right = (teacher(data.images).argmax(1) == data.shapes).float().mean().item()
    assert agreement["either"] == pytest.approx(sum(either) / 3, abs=1e-4)
    assert agreement["plain"] == pytest.approx(right, abs=1e-4)


def test_mixtures_are_of_a_batch_and_its_reverse_and_so_are_their_labels():
    images, labels = torch.arange(4.0).reshape(4, 1, 1, 1), torch.arange(4)
    (got, mixture), (_, other) = distillation.mixed([(images, labels)] * 2, seed=0)
    share = mixture.share
    assert 0 < share < 1
    assert share != other.share
    torch.testing.assert_close(got.flatten(), share * labels.float() + (1 - share) * (3.0 - labels))
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    target = share * F.one_hot(labels, 8) + (1 - share) * F.one_hot(labels.flip(0), 8)
    by_labels = mixture.mean(lambda labels: F.cross_entropy(logits, labels))
    torch.testing.assert_close(by_labels, F.cross_entropy(logits, target))


def test_heads_add_up_to_the_students_answer():
    student = distillation.make_student(True, 0).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(std=0.1)
    images = shape_images(16, seed=1).images
    logits = distillation.each_head(student, images)
    torch.testing.assert_close(logits["both"], (logits["class"] + logits["distillation"]) / 2)
    assert list(distillation.each_head(distillation.make_student(False, 0).eval(), images)) == ["both"]


def test_methods_say_what_their_names_say():
    one, two, taught = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    ours = {
        name: loss((one, two) if distilled else one, taught, labels)
        for name, (distilled, loss) in distillation.METHODS.items()
    }
    own = F.cross_entropy(one, labels)
    decision = taught.argmax(1)
    divergence = F.kl_div((one / 3).log_softmax(1), (taught / 3).softmax(1), reduction="batchmean")
    expected = {
        "labels": own,
        "soft, 0.1": 0.9 * own + 0.1 * 9 * divergence,
        "soft, 0.9": 0.1 * own + 0.9 * 9 * divergence,
        "hard": (own + F.cross_entropy(one, decision)) / 2,
        "hard + token": (own + F.cross_entropy(two, decision)) / 2,
        "two class tokens": (own + F.cross_entropy(two, labels)) / 2,
    }
    assert list(ours) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


def test_finished_runs_are_kept_and_other_settings_refused(small, monkeypatch, tmp_path, capsys):
    output = tmp_path / "out.json"
    run(monkeypatch, "--seeds", 0, "--cues", "agree", "--only", "labels", "--output", output)
    first = json.loads(output.read_text())["runs"]
    assert [row["method"] for row in first] == ["teacher", "labels"]
    run(monkeypatch, "--seeds", 0, "--only", "labels", "hard + token", "--output", output)
    second = json.loads(output.read_text())["runs"]
    assert [(row["cues"], row["method"]) for row in second] == [
        ("agree", "labels"), ("agree", "teacher"), ("agree", "hard + token"),
        ("independent", "teacher"), ("independent", "labels"), ("independent", "hard + token"),
    ]  # fmt: skip
    assert second[0] == first[1]
    assert second[1] == first[0]  # the teacher is trained again, and is the same
    assert first[0]["agreement both"] == first[0]["agreement in conflict"] == 1
    assert set(second[2]) >= {"top-1 both", "top-1 class", "agreement distillation", "token cosine", "shape bias"}
    assert len(second[2]["similarity"]) == distillation.STUDENT["depth"] + 1
    assert "shape bias" not in second[5]
    monkeypatch.setitem(distillation.PARTS, "agree", dataclasses.replace(distillation.PARTS["agree"], images=25))
    with pytest.raises(SystemExit):
        run(monkeypatch, "--output", output)
    assert "other settings" in capsys.readouterr().err


def test_the_teachers_file_holds_the_teacher(small, monkeypatch, tmp_path):
    run(monkeypatch, "--teacher", tmp_path / "teacher.safetensors")
    net, card = load_model(tmp_path / "teacher.safetensors")
    again = distillation.train_teacher(0, "agree")
    images = shape_images(4, seed=9).images
    torch.testing.assert_close(net(images.unsqueeze(2)), again(images))
    assert (card.recipe["images"], card.recipe["cues"]) == (24, "agree")
    assert 0 <= card.provenance["accuracy"]["top-1"] <= 1


def test_committed_results_are_whole():
    stored = json.loads(RESULTS.read_text())
    parts = {cues: dataclasses.asdict(part) for cues, part in distillation.PARTS.items()}
    assert stored["settings"] == json.loads(json.dumps(parts))
    seeds = {row["seed"] for row in stored["runs"]}
    assert len(seeds) >= 3
    expected = {
        (cues, method, seed)
        for cues, part in distillation.PARTS.items()
        for method in ("teacher", *part.methods)
        for seed in seeds
    }
    assert {(row["cues"], row["method"], row["seed"]) for row in stored["runs"]} == expected
    assert len(stored["runs"]) == len(expected)
