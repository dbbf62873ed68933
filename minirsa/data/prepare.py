"""Videos to folders of frames: decoded once, in parallel, instead of in every epoch.

    root/ videos + annotations  ->  prepare(data, root, output)  ->  output/frames/NAME/00001.jpg, 00002.jpg, ...
                                                                     output/manifest.jsonl      a line for each clip
                                                                     output/missing.txt         name, file
                                                                     output/undecodable.txt     name, file, cause
                                                                     output/ copies of the annotations

``output`` is a root of its own, which `minirsa.data.readers.open_split` opens by the same name; it may be ``root``
itself. From frames, a clip of 8 takes half the processor time or less that it takes from its video.

A clip is written into a temporary folder, which is renamed when it is complete, and only then listed. A run that was
killed therefore leaves nothing half, and the next run goes on where it stopped; a video that has changed since is done
again. No clip is left out in silence: what is missing or does not decode is listed with its cause, and the clips of
each split are counted against `minirsa.published.DATASETS`.

Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from minirsa import published
from minirsa.data.frames import check_inside, count_frames, frame_name, read_picture
from minirsa.data.layout import MANIFEST, PUBLISHED, Entry, Split, inside, read_manifest
from minirsa.data.parallel import WorkerDied, run_all
from minirsa.data.readers import available_splits, open_split
from minirsa.data.stream import stream_clip
from minirsa.data.video import VideoReadError

__all__ = ["Count", "Report", "prepare"]


@dataclass(frozen=True)
class Count:
    """Clips of a split: listed in its annotations, published (None: no number is), ready to be read as frames."""

    listed: int
    published: int | None
    ready: int

    @property
    def agrees(self) -> bool:
        """Whether the annotations list as many clips as were published."""
        return self.published in (None, self.listed)


@dataclass(frozen=True)
class Report:
    """What a run of `prepare` did: clips written now and before, names of those that are missing or do not decode."""

    done: int
    skipped: int
    missing: tuple[str, ...]
    undecodable: tuple[str, ...]
    counts: dict[str, Count]

    @property
    def complete(self) -> bool:
        """Whether every clip is ready and every split has the published number of them."""
        return not self.missing and not self.undecodable and all(count.agrees for count in self.counts.values())

    def __str__(self) -> str:
        lines = [f"{self.done} clips prepared, {self.skipped} were ready"]
        for split, count in self.counts.items():
            text = f"{split}: {count.ready} of {count.listed} clips ready"
            if not count.agrees:
                text += f"; {count.published} were published: is this the whole data set, in that version?"
            lines.append(text)
        for what, names in (("missing", self.missing), ("undecodable", self.undecodable)):
            if names:
                more = ", ..." if len(names) > 3 else ""
                lines.append(f"{len(names)} {what}, listed in {what}.txt: {', '.join(names[:3])}{more}")
        return "\n".join(lines)


def prepare(
    data: str,
    root: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    split: str | Sequence[str] | None = None,
    workers: int | None = None,
    resize: int | Sequence[int] | None = 256,
    quality: int = 90,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Extract the frames of a data set's clips as JPEG files, in ``workers`` processes (default: one a core).

    data, root, split: as `open_split`; split: one, several, or None for all whose annotations are there.
    output: where frames go; None for the root itself.
    workers: 0 works in this process. Others are started anew: call this under ``if __name__ == "__main__"`` in scripts.
    resize: the shorter side of a frame in pixels (smaller ones stay as they are), (height, width) exactly, as the RSA
        release's (240, 320), or None for the size of the video.
    quality: of the JPEG files, 1 to 95.
    on_progress: called with clips finished, clips in all and a clip's name after each.

    Frame folders (Something-Something V1) of the right size stay where they are if output is the root; each of their
    frames is decoded once to see that it is whole. A missing or broken clip raises nothing: it is reported.

    Raises ValueError for options that do not fit or differ from those that the output was begun with, what
    `open_split` raises, and BlockingIOError if another run is writing to this output.
    """
    root = Path(root)
    output = root if output is None else Path(output)
    options = _options(resize, quality)
    workers = _cores() if workers is None else workers
    if workers < 0:
        raise ValueError(f"expected at least 0 workers, got {workers}")
    names = [split] if isinstance(split, str) else list(split or available_splits(data, root))
    splits = {name: open_split(data, root, name, frames=False) for name in names}
    entries = {entry.name: entry for chosen in splits.values() for entry in chosen.entries}
    for name in entries:
        _target(name)
    output.mkdir(parents=True, exist_ok=True)
    in_place = output.samefile(root)
    with _only_run(output):
        for left in output.glob(".partial-*"):  # of a run that was killed
            shutil.rmtree(left)
        listed = _begin(output, options)
        if not in_place:
            _copy_annotations(splits.values(), root, output)
        todo = [e for name, e in entries.items() if name not in listed or not _still_good(listed[name], e, output)]
        failed = _convert(todo, _Job(root, output, in_place, **options), workers, on_progress, len(entries))
        _finish(output, failed)
        _write_failures(output, entries, failed)
    missing = tuple(sorted(name for name, cause in failed.items() if cause is None))
    undecodable = tuple(sorted(name for name, cause in failed.items() if cause is not None))
    counts = {name: _count(data, chosen, failed) for name, chosen in splits.items()}
    return Report(len(todo) - len(failed), len(entries) - len(todo), missing, undecodable, counts)


# The parent: what is to be done, and what is done --------------------------------------------------------------------


def _options(resize: int | Sequence[int] | None, quality: int) -> dict:
    if isinstance(resize, Sequence):
        resize = tuple(resize)
        resize = resize[0] if len(resize) == 1 else resize
    sides = resize if isinstance(resize, tuple) else (1 if resize is None else resize,)
    if len(sides) > 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"expected resize as a shorter side, (height, width) or None, got {resize!r}")
    if not (isinstance(quality, int) and 1 <= quality <= 95):
        raise ValueError(f"expected a quality from 1 to 95, got {quality!r}")
    return {"resize": resize, "quality": quality}


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _target(name: str) -> str:
    """Where a clip's frames go, relative to the output. Raises ValueError for a name that is no path of its own."""
    inner = inside(name, f"entry {name!r}")
    if not inner.parts or str(inner) != name:
        raise ValueError(f"entry {name!r} cannot be the name of a folder of frames")
    return str(PurePosixPath("frames") / inner)


@contextlib.contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Refuse a second run on one output, where the system has locks that end with their process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(output / ".prepare.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another run is preparing {output}: wait for it, or choose another folder"
            ) from error
        yield


def _begin(output: Path, options: dict) -> dict[str, dict]:
    """The manifest of earlier runs, a line that was left half cut away. Raises ValueError for other options."""
    path = output / MANIFEST
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    listed = read_manifest(output)
    for name, line in listed.items():
        for key, value in options.items():
            before = tuple(line[key]) if isinstance(line.get(key), list) else line.get(key)
            if before != value:
                raise ValueError(
                    f"{output} was begun with {key}={before} ({name!r}), expected the same, got {key}={value}: "
                    "go on with that, or choose another output"
                )
    return listed


def _copy_annotations(splits: Iterable[Split], root: Path, output: Path) -> None:
    for path in {path for split in splits for path in split.annotations}:
        copy = output / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _still_good(line: Mapping, entry: Entry, output: Path) -> bool:
    """Whether a clip's frames are all there, and of the video that is there now (or of one that is gone)."""
    try:
        whole = count_frames(output / inside(line["path"], f"entry {entry.name!r}")) == line["frames"]
    except VideoReadError:
        return False
    span = None if entry.span is None else list(entry.span)
    return whole and line.get("span") == span and _fingerprint(entry.path) in (None, line.get("source"))


def _fingerprint(path: Path) -> list[int] | None:
    """Size (or number of files) and time of change of a source; None if it is not there."""
    try:
        found = os.stat(path)
        return [len(os.listdir(path)) if path.is_dir() else found.st_size, found.st_mtime_ns]
    except OSError:
        return None


def _convert(
    todo: list[Entry], job: _Job, workers: int, on_progress: Callable[[int, int, str], None] | None, total: int
) -> dict[str, str | None]:
    """Extract clips and list them. Returns the names of those that failed: {name: cause, None for a missing file}."""
    failed: dict[str, str | None] = {}
    with (
        tempfile.TemporaryDirectory(prefix=".partial-", dir=job.output) as scratch,
        open(job.output / MANIFEST, "a", encoding="utf-8") as manifest,
    ):
        tasks = ((job, entry, Path(scratch) / str(number)) for number, entry in enumerate(todo))
        for number, ((_, entry, folder), result) in enumerate(run_all(_extract, tasks, workers), 1):
            if isinstance(result, dict):
                if "path" not in result:
                    result["path"] = _target(entry.name)
                    _put(folder, job.output / result["path"])
                manifest.write(json.dumps({"name": entry.name, **result}) + "\n")
                manifest.flush()
            elif isinstance(result, WorkerDied):
                failed[entry.name] = "the decoder's process died over it"
            else:
                failed[entry.name] = result
            if on_progress is not None:
                on_progress(total - len(todo) + number, total, entry.name)
    return failed


def _put(folder: Path, target: Path) -> None:
    """Rename a finished folder to its place."""
    if target.exists():  # of a video that has changed, or of a run killed before it could list the clip
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, target)


def _finish(output: Path, failed: Mapping[str, str | None]) -> None:
    """The manifest in order, each clip once, without those whose video does not decode any more."""
    listed = {name: line for name, line in read_manifest(output).items() if name not in failed}
    text = "".join(json.dumps(listed[name]) + "\n" for name in sorted(listed))
    _replace(output / MANIFEST, text)


def _write_failures(output: Path, entries: Mapping[str, Entry], failed: Mapping[str, str | None]) -> None:
    """missing.txt and undecodable.txt: what earlier runs found out about other clips stays."""
    for file, missing in (("missing.txt", True), ("undecodable.txt", False)):
        path = output / file
        before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = [line for line in before if line.split("\t")[0] not in entries]
        for name, cause in failed.items():
            if (cause is None) == missing:
                rows.append("\t".join([name, str(entries[name].path), *([] if missing else [cause])]))
        _replace(path, "".join(f"{row}\n" for row in sorted(rows)))


def _replace(path: Path, text: str) -> None:
    """Write a text file in one go: what is killed leaves the old one."""
    scratch = path.with_name(f".{path.name}.new")
    with open(scratch, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _count(data: str, split: Split, failed: Mapping[str, str | None]) -> Count:
    row = published.DATASETS.find(name=PUBLISHED[data]) if data in PUBLISHED else None
    ready = sum(entry.name not in failed for entry in split.entries)
    return Count(len(split), getattr(row, split.name, None), ready)


# A worker: one clip --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    root: Path
    output: Path
    in_place: bool
    resize: int | tuple[int, int] | None
    quality: int


def _extract(task: tuple[_Job, Entry, Path]) -> dict | str | None:
    """Write one clip's frames into a new folder: its line of the manifest, why it failed, or None if it is missing."""
    job, entry, folder = task
    source = _fingerprint(entry.path)
    if source is None and not os.path.lexists(entry.path):
        return None
    try:
        check_inside(job.root, entry.path)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died over it
        folder.mkdir()
        if entry.path.is_dir():
            found = _extract_folder(job, entry, folder)
        else:
            found = _write_frames(job, stream_clip(entry.path, entry.span), folder, entry.path)
    except VideoReadError as error:
        return " ".join(str(error.cause).split())
    span = None if entry.span is None else list(entry.span)
    return {**found, "source": source, "span": span, "resize": job.resize, "quality": job.quality}


def _extract_folder(job: _Job, entry: Entry, folder: Path) -> dict:
    """A clip that comes as frames: looked through where it is, copied, or resized."""
    files = [entry.path / frame_name(number) for number in range(1, count_frames(entry.path) + 1)]
    for file in files:
        check_inside(job.root, file)
    shapes = {read_picture(file).shape[:2] for file in files}
    if len(shapes) > 1:
        raise VideoReadError(entry.path, "its frames change size")
    (height, width) = shapes.pop()
    if _new_size(height, width, job.resize) != (height, width):
        return _write_frames(job, (read_picture(file) for file in files), folder, entry.path)
    found = {"frames": len(files), "height": height, "width": width}
    if job.in_place:
        folder.rmdir()
        return {**found, "path": entry.path.relative_to(job.root).as_posix()}
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return found


def _write_frames(job: _Job, frames: Iterable[np.ndarray], folder: Path, path: Path) -> dict:
    """Frames, uint8 (H, W, 3), as JPEG files, one in memory at a time."""
    from PIL import Image

    number, size = 0, None
    for number, frame in enumerate(frames, 1):
        if size is None:
            size = frame.shape
            height, width = _new_size(*size[:2], job.resize)
        if frame.shape != size:
            raise VideoReadError(path, "its frames change size")
        picture = Image.fromarray(frame)
        if (height, width) != size[:2]:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # averages where it shrinks
        picture.save(folder / frame_name(number), "JPEG", quality=job.quality)
    return {"frames": number, "height": height, "width": width}


def _new_size(height: int, width: int, resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the frames to write."""
    if isinstance(resize, tuple):
        return resize
    short = min(height, width)
    if resize is None or short <= resize:
        return height, width
    return max(1, round(height * resize / short)), max(1, round(width * resize / short))
