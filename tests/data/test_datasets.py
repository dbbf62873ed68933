"""Samples: the right frames of the right clip, drawn from (seed, epoch, index) alone; failures named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from minirsa.data import LABELS, MotionConfig, MotionSet, segment_indices
from minirsa.data.datasets import Batch, ClipDataset, ClipReadError, MotionDataset, Sample, collate, open_split
from minirsa.data.prepare import prepare
from minirsa.data.transforms import IMAGENET_MEAN, IMAGENET_STD

LENGTH = 12
SETS = ["something-v1", "something-v2", "diving48", "gym subactions", "gym events", "gym videos", "clips"]
SMALL = {"frames": 4, "size": 32}


def open_as(layouts, name, split="train"):
    return open_split("gym99" if name.startswith("gym") else name, layouts[name], split)


def pictures(sample, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """A sample's frames as uint8-like floats (T, H, W, 3)."""
    video = sample.video * torch.tensor(std).view(3, 1, 1, 1) + torch.tensor(mean).view(3, 1, 1, 1)
    return (video * 255).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("name", SETS)
def test_a_test_sample_shows_the_middle_frame_of_each_segment(layouts, numbers, name):
    split = open_as(layouts, name)
    data = ClipDataset(split, **SMALL, training=False)
    assert len(data) == 3
    assert data.classes == split.classes
    for index in range(3):
        sample = data[index]
        assert isinstance(sample, Sample)
        assert sample.video.shape == (3, 4, 32, 32)
        assert sample.video.dtype == torch.float32
        assert sample.video.is_contiguous()
        assert (sample.label, sample.name) == (split.entries[index].label, split.entries[index].name)
        if name in ("gym events", "gym videos"):  # 12 frames of one routine, numbered through
            first = 10 + 12 * index + (5 if name == "gym videos" else 0)
            assert numbers.frames(pictures(sample), step=3) == [first + i for i in segment_indices(LENGTH, 4)]
        else:
            assert numbers.frames(pictures(sample)) == segment_indices(LENGTH, 4) == [1, 4, 7, 10]
            assert numbers.clip(pictures(sample)) == index


def test_prepared_frames_give_the_same_sample_as_the_video(layouts, tmp_path, numbers):
    for name, data in (("something-v2", "something-v2"), ("gym events", "gym99")):
        prepare(data, layouts[name], tmp_path / name, workers=0, quality=95)
        ours = ClipDataset(open_split(data, tmp_path / name, "train"), **SMALL, training=False)
        theirs = ClipDataset(open_split(data, layouts[name], "train"), **SMALL, training=False)
        for index in range(3):
            assert ours.split.entries[index].path.is_dir()
            assert np.abs(pictures(ours[index]) - pictures(theirs[index])).mean() < 3
            assert ours[index][1:] == theirs[index][1:]


def test_two_views_and_three_crops_come_view_by_view(layouts, numbers):
    split = open_as(layouts, "clips")
    one = ClipDataset(split, **SMALL, training=False, resize=(40, 60))
    many = ClipDataset(split, **SMALL, training=False, views=2, crops=3, resize=(40, 60))[0]
    assert many.video.shape == (6, 3, 4, 32, 32)
    torch.testing.assert_close(many.video[1], one[0].video)  # the middle crop of the first view
    assert len({tuple(video.flatten().tolist()) for video in many.video}) == 6
    left = ClipDataset(split, **SMALL, training=False, views=2, crops=1, resize=(32, 32))[0].video
    assert [numbers.frames(pictures(Sample(video, 0, ""))) for video in left] == [[1, 4, 7, 10], [0, 3, 6, 9]]


@pytest.mark.parametrize(("shape", "axis"), [((64, 96), 1), ((96, 64), 0)])
@pytest.mark.parametrize(("crops", "starts"), [(1, [16]), (2, [0, 32]), (3, [0, 16, 32]), (5, [0, 8, 16, 24, 32])])
def test_crops_lie_at_equal_distances_along_the_longer_side(tmp_path, shape, axis, crops, starts):
    place = np.indices(shape)[axis].astype(np.uint8)  # the brightness tells the place
    split = frames_of_one_clip(tmp_path, np.repeat(place[None, ..., None], 3, 3))
    video = ClipDataset(split, frames=1, size=64, training=False, crops=crops, resize=(64,))[0].video
    video = video[None] if crops == 1 else video
    assert video.shape == (crops, 3, 1, 64, 64)
    along = [pictures(Sample(crop, 0, ""))[0].mean() for crop in video]
    assert along == pytest.approx([start + 31.5 for start in starts], abs=1)


def frames_of_one_clip(root, frames):
    """A root with one clip, labelled by its first class of two, as a folder of frames (T, H, W, 3)."""
    (root / "clip").mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(root / f"clip/{number:05d}.jpg", quality=100)
    (root / "labels.csv").write_text("clip,label\nclip,Pushing something from left to right\n")
    (root / "classes.txt").write_text("Pushing something from left to right\nPushing something from right to left\n")
    return open_split("clips", root, "all")


def test_training_draws_a_frame_of_each_segment_and_other_ones_each_epoch(tmp_path, numbers):
    frames = np.broadcast_to((30 + 15 * np.arange(LENGTH, dtype=np.uint8))[:, None, None, None], (LENGTH, 40, 60, 3))
    data = ClipDataset(frames_of_one_clip(tmp_path, frames), **SMALL, training=True, flip="off")
    seen = [set() for _ in range(4)]
    for epoch in range(12):
        data.set_epoch(epoch)
        for segment, number in enumerate(numbers.frames(pictures(data[0]))):
            assert 3 * segment <= number < 3 * segment + 3
            seen[segment].add(number)
    assert [len(numbers_seen) for numbers_seen in seen] == [3, 3, 3, 3]


def test_draws_depend_on_seed_epoch_and_index_alone(layouts):
    split = open_as(layouts, "something-v1")
    data = ClipDataset(split, **SMALL, training=True, seed=1)
    data.set_epoch(3)
    wanted = data[1].video
    data[0], data[2]
    torch.manual_seed(9)
    assert torch.equal(data[1].video, wanted)
    assert torch.equal(data[-2].video, wanted)
    fresh = ClipDataset(split, **SMALL, training=True, seed=1)
    assert not torch.equal(fresh[1].video, wanted)
    fresh.set_epoch(3)
    assert torch.equal(fresh[1].video, wanted)
    for other in (ClipDataset(split, **SMALL, training=True, seed=2), replace_entries(data, (1, 1, 1))):
        other.set_epoch(3)
        assert not torch.equal(other[0].video, wanted)


def replace_entries(data, indices):
    entries = tuple(data.split.entries[i] for i in indices)
    return ClipDataset(replace(data.split, entries=entries), **SMALL, training=True, seed=data.seed)


def test_a_worker_that_lives_on_hears_of_the_next_epoch(layouts):
    data = ClipDataset(open_as(layouts, "something-v1"), **SMALL, training=True)
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=True, collate_fn=collate)
    for epoch in (0, 1, 7):
        data.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch.names) for batch in batches] == [2, 1]
        for place, batch in enumerate(batches):
            for row, video in enumerate(batch.videos):
                assert torch.equal(video, data[2 * place + row].video)


def test_left_and_right_are_not_mirrored_unless_the_label_goes_along(tmp_path):
    ramp = np.repeat(
        np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 40, 0)[..., None], 3, 2
    )  # brighter rightwards
    split = frames_of_one_clip(tmp_path, ramp[None])
    neutral = replace(split, classes=("Covering something", "Uncovering something"))
    seen = {}
    for flip in ("off", "skip", "swap"):
        for chosen in (split, neutral):
            data = ClipDataset(chosen, frames=1, size=32, training=True, flip=flip)
            results = set()
            for epoch in range(16):
                data.set_epoch(epoch)
                video, label, _ = data[0]
                results.add((bool(video[..., 0].mean() > video[..., -1].mean()), label))
            seen[flip, chosen is split] = results
    assert seen["off", True] == seen["off", False] == seen["skip", True] == {(False, 0)}
    assert seen["swap", True] == {(False, 0), (True, 1)}
    assert seen["skip", False] == seen["swap", False] == {(False, 0), (True, 0)}


def test_frames_are_resized_as_asked(layouts):
    """Without resize a test takes the middle of the shorter side's 7/8; with it the frames become exactly that."""
    split = open_as(layouts, "clips")
    full = pictures(ClipDataset(split, frames=1, size=56, training=False, resize=(56, 56))[0])
    assert full.shape == (1, 56, 56, 3)
    assert full[0, :, :27].std() < 3  # squeezed: the middle edge stays in the middle
    assert full[0, :, 29:].std() < 3
    usual = ClipDataset(split, frames=1, size=56, training=False)
    by_hand = ClipDataset(split, frames=1, size=56, training=False, resize=(64,))
    torch.testing.assert_close(usual[0].video, by_hand[0].video)


def test_mean_and_deviation_are_taken_off(layouts):
    split = open_as(layouts, "clips")
    plain = ClipDataset(split, **SMALL, training=False, mean=(0, 0, 0), std=(1, 1, 1))[0].video
    assert 0 <= plain.min() <= plain.max() <= 1
    usual = ClipDataset(split, **SMALL, training=False)[0].video
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(usual, (plain - mean) / std)


def test_unreadable_clips_are_named_with_set_entry_file_and_cause(copied):
    root = copied("clips")
    (root / "a.mp4").unlink()
    (root / "deep/b.mp4").write_bytes(b"no video")
    data = ClipDataset(open_split("clips", root, "train"), **SMALL, training=True)
    assert len(data) == 3  # nothing is left out
    with pytest.raises(
        ClipReadError, match=r"^clip 'a\.mp4' of clips train: cannot read .*a\.mp4: no such file$"
    ) as caught:
        data[0]
    assert caught.value.path == root / "a.mp4"
    with pytest.raises(ClipReadError, match=r"clip 'deep/b\.mp4' of clips train: cannot read .*b\.mp4: "):
        data[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_keeps_its_line(copied, workers):
    root = copied("something-v2")
    (root / "20bn-something-something-v2/1.webm").unlink()
    data = ClipDataset(open_split("something-v2", root, "train"), **SMALL, training=False)
    with pytest.raises(ClipReadError) as caught:
        list(DataLoader(data, batch_size=3, num_workers=workers, collate_fn=collate))
    assert str(caught.value).startswith("clip '1' of something-v2 train: cannot read ")
    assert str(caught.value).endswith("1.webm: no such file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["gap", "torn", "empty", "missing", "size", "text"])
def test_broken_folders_of_frames_are_named(copied, what):
    root = copied("something-v1")
    folder = root / "20bn-something-something-v1/101"
    second = folder / "00002.jpg"
    if what == "gap":
        second.unlink()
    elif what == "torn":
        second.write_bytes(second.read_bytes()[:200])
    elif what == "text":
        second.write_text("no picture")
    elif what == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif what == "missing":
        folder.rename(folder.with_name("gone"))
    else:
        Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(second)
    data = ClipDataset(open_split("something-v1", root, "train"), frames=LENGTH, size=32, training=False)
    with pytest.raises(ClipReadError, match=r"clip '101' of something-v1 train: cannot read .*/101"):
        data[0]
    data[1]


def test_a_manifest_that_promises_too_many_frames_ends_in_an_error(copied, tmp_path):
    root = copied("clips")
    prepare("clips", root, workers=0)
    (root / "frames/a.mp4/00012.jpg").unlink()
    data = ClipDataset(open_split("clips", root, "train"), frames=LENGTH, size=32, training=False)
    with pytest.raises(ClipReadError, match=r"clip 'a\.mp4' of clips train: cannot read .*00012\.jpg: no such file"):
        data[0]


@pytest.mark.parametrize("what", ["video", "folder", "picture"])
def test_a_link_that_leads_out_of_the_root_is_not_followed(copied, tmp_path, what):
    root = copied("something-v1" if what != "video" else "clips")
    outside = tmp_path / "outside"
    target = {"video": "a.mp4", "folder": "20bn-something-something-v1/101"}.get(
        what, "20bn-something-something-v1/101/00002.jpg"
    )
    (root / target).rename(outside)
    (root / target).symlink_to(outside)
    split = open_split("clips" if what == "video" else "something-v1", root, "train")
    data = ClipDataset(split, frames=LENGTH, size=32, training=False)
    with pytest.raises(ClipReadError, match="leads outside the data set's root"):
        data[0]


def test_options_that_do_not_fit_are_refused(layouts):
    split = open_as(layouts, "something-v2")
    for options, message in (
        ({"frames": 0}, "frames and size of at least 1"),
        ({"seed": -1}, "seed from 0"),
        ({"views": 3}, "views 1 or 2"),
        ({"crops": 0}, "crops from 1"),
        ({"training": True, "views": 2}, "one view and one crop in training"),
        ({"flip": "mirror"}, '"off", "skip" or "swap"'),
        ({"resize": (20, 60)}, "at least size=32"),
        ({"resize": 20}, "at least size=32"),
        ({"resize": (1, 2, 3)}, "expected a size"),
        ({"std": (0, 1, 1)}, "standard deviations above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipDataset(split, **{**SMALL, "training": False, **options})
    with pytest.raises(ValueError, match="expected entries in something-v2 train, got none"):
        ClipDataset(replace(split, entries=()), **SMALL, training=False)
    with pytest.raises(ValueError, match="expected a label for every clip of something-v2 test to train on"):
        ClipDataset(open_as(layouts, "something-v2", "test"), **SMALL, training=True)
    with pytest.raises(ValueError, match="epoch of at least 0"):
        ClipDataset(split, **SMALL, training=True).set_epoch(-1)


def test_collate_stacks_and_refuses_other_shapes():
    samples = [Sample(torch.zeros(3, 2, 4, 4), n, f"clip {n}") for n in range(3)]
    batch = collate(samples)
    assert isinstance(batch, Batch)
    assert batch.videos.shape == (3, 3, 2, 4, 4)
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [0, 1, 2]
    assert batch.names == ["clip 0", "clip 1", "clip 2"]
    with pytest.raises(ValueError, match=r"'clip 0' and \(3, 2, 4, 5\) for 'odd'"):
        collate([*samples, Sample(torch.zeros(3, 2, 4, 5), 0, "odd")])
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])


CONFIG = MotionConfig(height=16, width=16, frames=4, noise=0.05)


def test_motion_samples_are_the_motion_sets_items_normalised():
    data = MotionDataset(30, CONFIG, seed=5)
    clips = MotionSet(30, CONFIG, seed=5, hashed_noise=True)
    assert len(data) == 30
    assert data.classes == LABELS
    for index in (0, 7, 29, -1):
        sample = data[index]
        clip, label = clips[index]
        torch.testing.assert_close(sample.video, (clip - 0.5) / 0.25)
        assert sample.label == label
        assert LABELS[label] in sample.name
    assert len({data[i].name for i in range(30)}) == 30


def test_motion_batches_are_their_samples():
    data = MotionDataset(30, CONFIG, seed=5, infinite=True, mean=(0, 0, 0), std=(1, 1, 1))
    data.set_epoch(4)
    batch = data.batch([3, 11, 3, 29])
    assert isinstance(batch, Batch)
    alone = collate([data[i] for i in (3, 11, 3, 29)])
    torch.testing.assert_close(batch.videos, alone.videos, rtol=0, atol=1e-6)
    assert torch.equal(batch.labels, alone.labels)
    assert batch.names == alone.names


def test_an_infinite_motion_set_has_new_clips_every_epoch_and_the_same_labels():
    data = MotionDataset(30, CONFIG, seed=5, infinite=True)
    finite = MotionDataset(30, CONFIG, seed=5)
    first = data.batch(range(30))
    assert torch.equal(first.videos, finite.batch(range(30)).videos)
    data.set_epoch(1)
    finite.set_epoch(1)
    second = data.batch(range(30))
    assert first.labels.tolist() == second.labels.tolist() == [i % 12 for i in range(30)]
    assert not set(first.names) & set(second.names)
    seen = torch.cat([first.videos, second.videos]).flatten(1)
    assert torch.cdist(seen, seen).fill_diagonal_(1e9).min() > 1
    assert torch.equal(first.videos, finite.batch(range(30)).videos)
    data.set_epoch(0)
    assert torch.equal(data.batch(range(30)).videos, first.videos)


def test_motion_workers_hear_of_the_next_epoch():
    data = MotionDataset(6, CONFIG, infinite=True)
    loader = DataLoader(data, batch_size=3, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in (0, 5):
        data.set_epoch(epoch)
        for number, batch in enumerate(loader):
            torch.testing.assert_close(batch.videos[0], data[3 * number].video)  # other threads round otherwise


def test_motion_sets_that_cannot_be_are_refused():
    for length, options in ((0, {}), (3, {"seed": -1}), (3, {"std": (0, 1, 1)}), (3, {"mean": (1,)})):
        with pytest.raises(ValueError, match="expected"):
            MotionDataset(length, CONFIG, **options)
    data = MotionDataset(3, CONFIG)
    for index in (3, -4):
        with pytest.raises(IndexError, match="outside a set of 3 clips"):
            data[index]
