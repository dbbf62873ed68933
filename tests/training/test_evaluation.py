"""Accuracies from saved scores, views and ensembles, and clips played backwards."""

import contextlib
import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from minirsa.data.motion import LABELS
from minirsa.data.video import write_clip
from minirsa.training import evaluation
from minirsa.training.distributed import Processes
from minirsa.training.evaluation import Scores, confusion, ensemble, evaluate, open_clips, report, scores_of

from .conftest import tiny

CLASSES = ("Moving something up", "Moving something down", "Dropping something")


def scores(rows, labels, *, classes=CLASSES, names=None, protocol="4 frames x 1 clip x 1 crop", backwards=False):
    """Scores whose probabilities are the rows, from logits of one view."""
    logits = torch.tensor(rows).log()[:, None]
    names = [f"clip {n}" for n in range(len(rows))] if names is None else names
    return scores_of(logits, torch.tensor(labels), names, classes, "clips test", protocol, backwards)


FOUR = scores([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], [0, 1, 2, 2])


def test_a_report_by_hand():
    """Right are clips 0 and 2: class 0 1/1, class 1 0/1, class 2 1/2. Clip 1 is taken for its opposite."""
    found = report(FOUR)
    assert (found.top1, found.top5, found.clips) == (0.5, 1.0, 4)
    assert found.class_accuracy == pytest.approx(0.5)
    (pair,) = found.pairs
    assert pair == evaluation.Pair(CLASSES[:2], 2, 0.5, 0.5, 0.5)
    assert confusion(FOUR).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_the_mean_over_classes_leaves_absent_classes_out_and_differs_from_top1():
    found = report(scores([[0.9, 0.05, 0.05]] * 3 + [[0.8, 0.1, 0.1]], [0, 0, 0, 1]))
    assert (found.top1, found.class_accuracy, found.present, found.classes) == (0.75, 0.5, 2, 3)


def test_top5_counts_the_fifth_and_not_the_sixth():
    row = torch.arange(7, 0, -1).double()
    rows = (row / row.sum()).expand(2, 7).tolist()
    assert report(scores(rows, [4, 5], classes=tuple("abcdefg"))).top5 == 0.5


def test_backwards_clips_must_get_the_opposite_class_and_others_are_left_out():
    """Two clips move up: backwards they must be called down, one is; the third moves down, and is still called that."""
    rows = [[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
    found = report(scores(rows, [0, 0, 1, 2], backwards=True))
    assert (found.clips, found.left_out, found.top1) == (3, 1, pytest.approx(1 / 3))
    assert found.class_accuracy == pytest.approx(1 / 4)  # down 1 of 2, up 0 of 1
    assert "played backwards: 3 clips (1 without an opposite class left out)" in str(found)
    alone = scores([[0.5, 0.5]], [0], classes=("one", "two"), backwards=True)
    with pytest.raises(ValueError, match="no class of clips test has an opposite"):
        report(alone)


def test_a_split_without_labels_has_no_accuracy():
    with pytest.raises(ValueError, match="expected labels to compare with"):
        report(scores([[0.2, 0.3, 0.5]], [-1]))


def test_the_text_has_frames_clips_and_crops_beside_the_accuracy():
    lines = str(report(FOUR)).splitlines()
    assert lines[0] == "clips test: 4 clips; 4 frames x 1 clip x 1 crop"
    assert lines[1] == "top-1 50.0 %   top-5 100.0 %   mean over 3 of 3 classes 50.0 %"
    assert lines[-1].endswith("Moving something up / Moving something down")


def test_views_are_averaged_as_probabilities_and_not_as_logits():
    logits = torch.tensor([[[10.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0]]])
    found = scores_of(logits, torch.tensor([1]), ["one"], CLASSES, "clips test", "")
    torch.testing.assert_close(found.probabilities, logits.softmax(2).mean(1))
    assert found.probabilities.argmax().item() == 1
    assert logits.mean(1).argmax().item() == 0  # the mean of logits would follow the one loud view


def test_an_ensemble_is_the_mean_over_members_whatever_the_order_of_clips():
    rows = [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]]
    other = scores(rows[::-1], [2, 2, 1, 0], names=[f"clip {n}" for n in (3, 2, 1, 0)], protocol="8 frames")
    both = ensemble([FOUR, other])
    torch.testing.assert_close(both.probabilities, (FOUR.probabilities + torch.tensor(rows)) / 2)
    assert both.protocol == "4 frames x 1 clip x 1 crop + 8 frames"
    assert both.labels.tolist() == [0, 1, 2, 2]
    with pytest.raises(ValueError, match="save its members' instead"):
        both.save("nowhere.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b", "c")}, "expected members of the same classes"),
        ({"backwards": True}, "got forwards and backwards"),
        ({"names": ("clip 0", "clip 1", "clip 2", "clip 9")}, "only one has: clip 3, clip 9"),
        ({"labels": torch.tensor([0, 1, 2, 1])}, "expected one label for each clip"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ensemble([FOUR, dataclasses.replace(FOUR, **change)])
    with pytest.raises(ValueError, match="expected at least two members"):
        ensemble([FOUR])


def test_scores_come_back_from_their_file(tmp_path):
    path = tmp_path / "scores.safetensors"
    FOUR.save(path)
    again = Scores.load(path)
    for name in ("names", "classes", "data", "protocol", "backwards"):
        assert getattr(again, name) == getattr(FOUR, name)
    assert torch.equal(again.logits, FOUR.logits)
    assert torch.equal(again.labels, FOUR.labels)
    assert not list(tmp_path.glob("*.part"))


def test_a_file_without_scores_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="no scores at"):
        Scores.load(tmp_path / "gone.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match=r"text\.safetensors has no scores"):
        Scores.load(tmp_path / "text.safetensors")


class Position(nn.Module):
    """Answers with how bright the clip's first frame is, in the middle and at its sides: tells views apart."""

    def forward(self, video):
        frame = video[:, :, 0].mean(1)
        return torch.stack([frame.mean((1, 2)), frame[:, :, 0].mean(1), video[:, :, -1].mean((1, 2, 3))], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six clips of 8 frames whose brightness grows with the frame and from left to right."""
    root = tmp_path_factory.mktemp("clips")
    across = np.linspace(0, 120, 48).astype(np.uint8)
    lines = ["clip,label,split"]
    for number in range(6):
        frames = np.zeros((8, 32, 48, 3), np.uint8)
        frames += across[:, None] + (10 * np.arange(8, dtype=np.uint8) + 5 * np.uint8(number))[:, None, None, None]
        write_clip(root / f"{number}.mp4", frames)
        lines.append(f"{number}.mp4,{CLASSES[number % 3]},{'train' if number < 3 else 'validation'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


RECIPE = {"data": "clips", "classes": 3, "epoch_clips": 0, "validation_clips": 0, "size": 32, "resize": [32]}


def test_two_clips_and_three_crops_are_six_views_of_each_video(folder):
    recipe = tiny(**RECIPE)
    one = evaluate(Position(), recipe, open_clips(recipe, folder), device="cpu")
    assert one.logits.shape == (3, 1, 3)
    assert one.protocol == "4 frames x 1 clip x 1 crop"
    assert one.data == "clips validation"
    six = evaluate(Position(), recipe, open_clips(recipe, folder, clips=2, crops=3), device="cpu", batch_size=2)
    assert six.logits.shape == (3, 6, 3)
    assert six.protocol == "4 frames x 2 clips x 3 crops"
    assert six.names == one.names == ("3.mp4", "4.mp4", "5.mp4")
    first_frame, left_edge = six.logits[0, :, :2].T
    assert (first_frame[:3] > first_frame[3:]).all()  # the second clip begins earlier, where it is darker
    assert (left_edge[[0, 1]] < left_edge[[1, 2]]).all()  # left, middle, right
    torch.testing.assert_close(six.logits[:, 1], one.logits[:, 0])  # the middle crop of the first clip


def test_backwards_clips_end_where_they_began(folder):
    recipe = tiny(**RECIPE)
    forwards, backwards = (
        evaluate(Position(), recipe, open_clips(recipe, folder, backwards=turn), device="cpu") for turn in (False, True)
    )
    torch.testing.assert_close(backwards.logits[..., 0], forwards.logits[..., 2])
    assert backwards.backwards
    assert evaluation.scores_name(backwards) == "scores-clips-validation-4x1x1-backwards.safetensors"


def test_the_motion_set_runs_backwards_too():
    recipe = tiny()
    forwards, backwards = open_clips(recipe), open_clips(recipe, backwards=True)
    for indices in ([0, 5], [7]):
        there, back = forwards.batch(indices), backwards.batch(indices, "cpu")
        assert torch.equal(back.videos, there.videos.flip(2))
        assert torch.equal(back.labels, there.labels)
    assert not torch.equal(back.videos, there.videos)


def test_the_motion_set_is_evaluated_in_batches_of_any_size_and_leaves_the_mode_alone():
    recipe = tiny()
    net = Position().train()
    clips = open_clips(recipe)
    seen = []
    whole = evaluate(net, tiny(classes=12), clips, device="cpu", on_progress=lambda *counts: seen.append(counts))
    parts = evaluate(net, recipe, clips, device="cpu", batch_size=5)
    torch.testing.assert_close(whole.logits, parts.logits)
    assert net.training
    assert seen == [(8, 24), (16, 24), (24, 24)]
    assert whole.labels.tolist() == [n % 12 for n in range(24)]
    assert whole.classes == LABELS


class Share(Processes):
    """One process of several that run one after the other; the last one finds what the others gave."""

    given: ClassVar[list[object]] = []

    def gather(self, value):
        self.given.append(value)
        if len(self.given) < self.world:
            raise InterruptedError
        return self.given


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_shares_of_several_processes_are_put_in_the_order_of_the_clips(folder, monkeypatch, world):
    """Three clips: two processes have two and one of them, and the last of four has none."""
    recipe = tiny(**RECIPE)
    clips = open_clips(recipe, folder, clips=2)
    whole = evaluate(Position(), recipe, clips, device="cpu")
    monkeypatch.setattr(Share, "given", [])
    for rank in range(world):
        group = Share(rank, world, torch.device("cpu"))
        monkeypatch.setattr(evaluation, "processes", lambda device, group=group: contextlib.nullcontext(group))
        with contextlib.nullcontext() if rank == world - 1 else pytest.raises(InterruptedError):
            found = evaluate(Position(), recipe, clips, device="cpu", batch_size=1)
    assert [len(names) for _, _, names in Share.given] == {2: [2, 1], 3: [1, 1, 1], 4: [1, 1, 1, 0]}[world]
    assert (found.names, found.protocol) == (whole.names, whole.protocol)
    assert torch.equal(found.labels, whole.labels)
    torch.testing.assert_close(found.logits, whole.logits)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({}, {"split": "test"}, "expected no split for the motion set"),
        ({}, {"clips": 2}, "expected 1 clip x 1 crop of the motion set, which is drawn at size, got 2 x 1"),
        (RECIPE, {}, "give --data-root FOLDER"),
        ({"classes": 11}, {}, "classes: expected 11, as the net has, got 12 of motion"),
        (RECIPE | {"data": "clps"}, {}, "did you mean 'clips'"),
    ],
)
def test_what_cannot_be_tested_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        open_clips(tiny(**values), **options)


def test_a_video_is_read_as_the_test_reads_it(folder):
    recipe = tiny(**RECIPE)
    (clip, _, name) = open_clips(recipe, folder)[0]
    torch.testing.assert_close(evaluation.read_file(recipe, folder / name), clip)
    drawn = evaluation.read_file(tiny(), folder / name)
    assert drawn.shape == (3, 4, 12, 12)
    assert -2 <= drawn.min() < drawn.max() <= 2
