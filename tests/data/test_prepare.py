"""Frames on disk: complete or not there, resumed after any end; every clip that has none is listed with its cause."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from minirsa.data import parallel
from minirsa.data.prepare import Count, Report, prepare
from minirsa.data.readers import open_split
from minirsa.data.video import read_clip, write_clip

LENGTH = 12
SETS = ["something-v1", "something-v2", "diving48", "gym subactions", "gym events", "gym videos", "clips"]


def contents(folder):
    """{path: bytes} of everything below a folder, but for locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".prepare.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def manifest(root):
    return {line["name"]: line for line in map(json.loads, (root / "manifest.jsonl").read_text().splitlines())}


def lines(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_every_layout_becomes_folders_of_frames_that_are_a_root_of_their_own(layouts, tmp_path, numbers, name):
    data = "gym99" if name.startswith("gym") else name
    seen = []
    report = prepare(data, layouts[name], tmp_path, workers=0, on_progress=lambda *step: seen.append(step))
    splits = {split: open_split(data, layouts[name], split, frames=False) for split in report.counts}
    clips = [entry.name for split in splits.values() for entry in split.entries]
    assert (report.done, report.skipped, report.missing, report.undecodable) == (len(clips), 0, (), ())
    assert [(done, total) for done, total, _ in seen] == [(n + 1, len(clips)) for n in range(len(clips))]
    assert [clip for _, _, clip in seen] == clips
    assert sorted(manifest(tmp_path)) == sorted(clips)
    number = 0
    for split, source in splits.items():
        prepared = open_split(data, tmp_path, split)
        assert (prepared.classes, len(prepared)) == (source.classes, len(source))
        for ours, theirs in zip(prepared.entries, source.entries):
            assert (ours.name, ours.label) == (theirs.name, theirs.label)
            assert (ours.frames, ours.span) == (LENGTH, None)
            assert ours.path == tmp_path / "frames" / ours.name
            files = sorted(path.name for path in ours.path.iterdir())
            assert files == [f"{n:05d}.jpg" for n in range(1, LENGTH + 1)]
            frames = np.stack([np.asarray(Image.open(ours.path / file)) for file in files])
            assert frames.shape == (LENGTH, 64, 96, 3)
            if name in ("gym events", "gym videos"):
                first = 10 + 12 * number + (5 if name == "gym videos" else 0)
                assert numbers.frames(frames, step=3) == list(range(first, first + LENGTH))
            else:
                assert numbers.frames(frames) == list(range(LENGTH))
                assert numbers.clip(frames) == number
            number += 1
    assert contents(tmp_path).keys() >= {str(p.relative_to(layouts[name])) for p in source.annotations}
    assert not list(tmp_path.glob(".partial-*"))


def test_frames_are_the_videos_own(layouts, tmp_path):
    prepare("something-v2", layouts["something-v2"], tmp_path, split="train", workers=0, quality=95)
    for name in ("0", "1", "2"):
        video = read_clip(layouts["something-v2"] / f"20bn-something-something-v2/{name}.webm")
        for number, frame in enumerate(video, 1):
            written = np.asarray(Image.open(tmp_path / f"frames/{name}/{number:05d}.jpg"))
            assert np.abs(written.astype(int) - frame).mean() < 1.5


def test_whole_folders_of_frames_stay_where_they_are(copied):
    root = copied("something-v1")
    before = contents(root)
    report = prepare("something-v1", root, workers=0)
    assert report.done == 5
    after = contents(root)
    assert after.keys() - before.keys() == {"manifest.jsonl", "missing.txt", "undecodable.txt"}
    assert all(after[path] == before[path] for path in before)
    entry = open_split("something-v1", root, "train").entries[0]
    assert (entry.path, entry.frames) == (root / "20bn-something-something-v1/101", LENGTH)
    assert prepare("something-v1", root, workers=0).skipped == 5


def test_a_second_run_writes_nothing(copied):
    root = copied("clips")
    assert prepare("clips", root, workers=0).done == 4
    before = {path: path.stat().st_mtime_ns for path in (root / "frames").rglob("*")}
    report = prepare("clips", root, workers=0, on_progress=lambda *_: pytest.fail("nothing was to be done"))
    assert (report.done, report.skipped) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in (root / "frames").rglob("*")} == before


def test_processes_write_what_one_process_writes(layouts, tmp_path):
    for workers in (0, 2):
        prepare("clips", layouts["clips"], tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


RUN = """
import sys
from minirsa.data.prepare import prepare
if __name__ == "__main__":
    def on_progress(done, total, name):
        print(done, flush=True)
        sys.stdin.readline()
    prepare("clips", sys.argv[1], sys.argv[2], workers=1, on_progress=on_progress)
"""


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_killed_run_leaves_nothing_half_and_is_taken_up_again(copied, tmp_path, after):
    """SIGKILL after a number of clips (0: while the first is being written)."""
    root, killed, whole = copied("clips"), tmp_path / "killed", tmp_path / "whole"
    rows = "".join(f"{n}.mp4,x,train\n" for n in range(8))
    (root / "labels.csv").write_text(f"clip,label,split\n{rows}")
    for n in range(8):
        shutil.copy(root / "a.mp4", root / f"{n}.mp4")
    command = [sys.executable, "-c", RUN, str(root), str(killed)]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for n in range(after):
        assert run.stdout.readline() == f"{n + 1}\n"
        run.stdin.write("\n")
        run.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(killed.glob(".partial-*/*/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    while True:  # its worker leaves too
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)

    listed = manifest(killed)
    assert after <= len(listed) < 8
    for name, line in listed.items():
        assert len(list((killed / line["path"]).iterdir())) == line["frames"] == LENGTH, name
    report = prepare("clips", root, killed, workers=0)
    assert (report.done, report.skipped) == (8 - len(listed), len(listed))
    prepare("clips", root, whole, workers=0)
    assert contents(killed) == contents(whole)
    assert not list(killed.glob(".partial-*"))


def test_a_line_cut_short_and_a_folder_not_yet_listed_are_done_again(copied):
    root = copied("clips")
    prepare("clips", root, workers=0)
    whole = contents(root)
    text = (root / "manifest.jsonl").read_text()
    (root / "manifest.jsonl").write_text(text[:-20])
    (root / "frames/a.mp4/00003.jpg").unlink()
    report = prepare("clips", root, workers=0)
    assert (report.done, report.skipped) == (2, 2)
    assert contents(root) == whole


def test_a_video_that_changed_is_done_again_and_one_that_went_stays(copied, numbers):
    root = copied("clips")
    prepare("clips", root, workers=0)
    write_clip(root / "c.mp4", numbers.draw(4, length=9))
    (root / "a.mp4").unlink()
    report = prepare("clips", root, workers=0)
    assert (report.done, report.skipped, report.missing) == (1, 3, ())
    assert {name: line["frames"] for name, line in manifest(root).items()} == {
        "a.mp4": 12,
        "c.mp4": 9,
        "d.mp4": 12,
        "deep/b.mp4": 12,
    }
    assert len(list((root / "frames/c.mp4").iterdir())) == 9


def test_a_video_that_no_longer_decodes_is_no_longer_listed_as_frames(copied):
    root = copied("clips")
    prepare("clips", root, workers=0)
    (root / "c.mp4").write_bytes(b"broken")
    report = prepare("clips", root, workers=0)
    assert (report.undecodable, "c.mp4" in manifest(root)) == (("c.mp4",), False)
    assert report.counts["train"] == Count(3, None, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_and_undecodable_clips_are_listed_and_the_others_done(copied, workers):
    root = copied("something-v2")
    videos = root / "20bn-something-something-v2"
    half = (videos / "1.webm").read_bytes()
    (videos / "0.webm").unlink()
    (videos / "1.webm").write_bytes(half[: len(half) // 2])
    (videos / "3.webm").write_text("no video")
    report = prepare("something-v2", root, workers=workers)
    assert (report.done, report.missing, report.undecodable) == (2, ("0",), ("1", "3"))
    assert sorted(manifest(root)) == ["2", "4"]
    assert lines(root / "missing.txt") == [["0", str(videos / "0.webm")]]
    rows = lines(root / "undecodable.txt")
    assert [row[:2] for row in rows] == [["1", str(videos / "1.webm")], ["3", str(videos / "3.webm")]]
    assert all(len(row) == 3 and row[2] for row in rows)
    assert not report.complete
    assert "1 missing, listed in missing.txt: 0" in str(report)
    assert "2 undecodable, listed in undecodable.txt: 1, 3" in str(report)
    assert report.counts["train"].ready == 1

    (videos / "1.webm").write_bytes(half)
    report = prepare("something-v2", root, split="train", workers=0)
    assert (report.done, report.missing, report.undecodable) == (1, ("0",), ())
    assert [row[0] for row in lines(root / "undecodable.txt")] == ["3"]  # of the other split: still known


def test_links_that_lead_out_of_the_root_are_refused_and_listed(copied, tmp_path):
    root = copied("clips")
    (root / "a.mp4").rename(tmp_path / "outside.mp4")
    (root / "a.mp4").symlink_to(tmp_path / "outside.mp4")
    report = prepare("clips", root, workers=0)
    assert (report.done, report.undecodable) == (3, ("a.mp4",))
    assert "leads outside the data set's root" in lines(root / "undecodable.txt")[0][2]


def test_frames_that_do_not_decode_are_found(copied):
    root = copied("something-v1")
    folder = root / "20bn-something-something-v1"
    picture = (folder / "101/00005.jpg").read_bytes()
    (folder / "101/00005.jpg").write_bytes(picture[:-100])
    (folder / "102/00005.jpg").unlink()
    report = prepare("something-v1", root, workers=0)
    assert report.undecodable == ("101", "102")
    assert "no 00005.jpg among them" in lines(root / "undecodable.txt")[1][2]


def test_a_clip_that_takes_its_process_down_is_listed(copied, monkeypatch):
    root = copied("clips")

    def run_all(function, tasks, workers):
        for task, result in parallel.run_all(function, tasks, 0):
            yield task, parallel.WorkerDied() if task[1].name == "d.mp4" else result

    monkeypatch.setattr("minirsa.data.prepare.run_all", run_all)
    report = prepare("clips", root, workers=0)
    assert (report.done, report.undecodable) == (3, ("d.mp4",))
    assert lines(root / "undecodable.txt")[0][2] == "the decoder's process died over it"


def test_a_full_disk_ends_the_run_and_blames_no_video(copied, monkeypatch):
    root = copied("clips")
    save, calls = Image.Image.save, []

    def full(picture, *arguments, **options):
        calls.append(1)
        if len(calls) > LENGTH + 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(picture, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        prepare("clips", root, workers=0)
    monkeypatch.undo()
    report = prepare("clips", root, workers=0)
    assert (report.done, report.skipped, report.undecodable) == (3, 1, ())
    assert not list(root.glob(".partial-*"))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [(256, (64, 96)), (None, (64, 96)), ((32,), (32, 48)), (32, (32, 48)), ((240, 320), (240, 320))],
)
def test_frames_get_the_size_that_was_asked_for(layouts, tmp_path, numbers, resize, expected):
    prepare("clips", layouts["clips"], tmp_path, split="validation", workers=0, resize=resize)
    with Image.open(tmp_path / "frames/d.mp4/00007.jpg") as picture:
        frame = np.asarray(picture)
    assert frame.shape == (*expected, 3)
    line = manifest(tmp_path)["d.mp4"]
    assert (line["height"], line["width"]) == expected
    assert numbers.frames(frame[None]) == [6]


def test_folders_of_frames_are_resized_into_new_ones(copied, numbers):
    root = copied("something-v1")
    before = contents(root)
    prepare("something-v1", root, split="train", workers=0, resize=(32, 40))
    entry = open_split("something-v1", root, "train").entries[1]
    assert entry.path == root / "frames/102"
    frames = np.stack([np.asarray(Image.open(path)) for path in sorted(entry.path.iterdir())])
    assert frames.shape == (LENGTH, 32, 40, 3)
    assert numbers.frames(frames) == list(range(LENGTH))
    assert all(contents(root)[path] == before[path] for path in before)


def test_quality_decides_the_size_of_the_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", noise)
    (tmp_path / "train.csv").write_text("clip,label\na.mp4,x\n")
    sizes = []
    for quality in (30, 95):
        prepare("clips", tmp_path, tmp_path / str(quality), workers=0, quality=quality)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(quality)).rglob("*.jpg")))
    assert sizes[0] < 0.5 * sizes[1]


def test_other_options_than_those_of_the_first_run_are_refused(copied):
    root = copied("clips")
    prepare("clips", root, workers=0, resize=(32, 48))
    assert prepare("clips", root, workers=0, resize=[32, 48]).skipped == 4
    with pytest.raises(ValueError, match=r"begun with resize=\(32, 48\) .*got resize=256: .*another output"):
        prepare("clips", root, workers=0)
    with pytest.raises(ValueError, match=r"begun with quality=90 .*got quality=80"):
        prepare("clips", root, workers=0, resize=(32, 48), quality=80)


def test_options_that_do_not_fit_are_refused_before_anything_is_written(layouts, tmp_path):
    root, output = layouts["clips"], tmp_path / "output"
    for options, message in (
        ({"resize": 0}, "expected resize"),
        ({"resize": (1, 2, 3)}, "expected resize"),
        ({"resize": 2.5}, "expected resize"),
        ({"quality": 0}, "quality from 1 to 95"),
        ({"quality": 100}, "quality from 1 to 95"),
        ({"workers": -1}, "at least 0 workers"),
        ({"split": "dev"}, "got 'dev'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare("clips", root, output, **{"workers": 0, **options})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare("clips", tmp_path / "nowhere", output, workers=0)
    assert not output.exists()


@pytest.mark.parametrize("name", ["./a.mp4", "."])
def test_names_that_are_no_folder_of_their_own_are_refused(copied, name):
    root = copied("clips")
    (root / "labels.csv").write_text(f"clip,label,split\n{name},x,train\n")
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        prepare("clips", root, workers=0)


def test_counts_are_held_against_the_published_ones(layouts, tmp_path):
    report = prepare("diving48", layouts["diving48"], tmp_path, workers=0)
    assert report.counts == {"train": Count(3, 15_027, 3), "test": Count(1, 1_970, 1)}
    assert not report.complete
    assert "train: 3 of 3 clips ready; 15027 were published: is this the whole data set" in str(report)
    whole = Report(1, 0, (), (), {"train": Count(15_027, 15_027, 15_027), "all": Count(4, None, 4)})
    assert whole.complete
    assert "published" not in str(whole)
    assert not Report(0, 0, ("a",), (), whole.counts).complete
    assert not Report(0, 0, (), ("a",), whole.counts).complete


def test_two_runs_do_not_write_into_one_folder(copied):
    root = copied("clips")

    def on_progress(*_):
        with pytest.raises(BlockingIOError, match="another run is preparing"):
            prepare("clips", root, workers=0)

    assert prepare("clips", root, workers=0, on_progress=on_progress).done == 4


def test_a_video_that_changes_size_inside_is_listed(copied, monkeypatch):
    root = copied("clips")
    frames = [np.zeros((64, 96, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)]
    monkeypatch.setattr("minirsa.data.prepare.stream_clip", lambda *_: iter(frames))
    assert len(prepare("clips", root, workers=0).undecodable) == 4
    assert lines(root / "undecodable.txt")[0][2] == "its frames change size"
