"""What the readers of data sets share: clips and splits, paths that stay inside a root, and annotations that say what
is wrong with them.

    Place(data, root, split)   finds a set's files in its folder; .split_of(...) makes the checked Split
    inside, check_links        no path of an annotation, and no link, leads out of the root
    read_manifest, with_frames the prepared frames of a root (`minirsa.data.prepare` writes them)

Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

__all__ = [
    "MANIFEST",
    "PUBLISHED",
    "SPLITS",
    "Entry",
    "Place",
    "Split",
    "check_links",
    "inside",
    "read_manifest",
    "with_frames",
]

MANIFEST = "manifest.jsonl"
"""The file in a root that lists prepared frames, a line of JSON for each clip; see `minirsa.data.prepare`."""

SPLITS: dict[str, tuple[str, ...]] = {
    "something-v1": ("train", "validation", "test"),
    "something-v2": ("train", "validation", "test"),
    "diving48": ("train", "test"),
    "gym99": ("train", "validation"),
    "gym288": ("train", "validation"),
    "clips": ("train", "validation", "test", "all"),
}
"""{name: splits}: the first to train on, the second to report on."""

PUBLISHED = {
    "something-v1": "Something-Something V1",
    "something-v2": "Something-Something V2",
    "diving48": "Diving-48 V2",
    "gym99": "FineGym Gym99",
    "gym288": "FineGym Gym288",
}
"""{name: row of `minirsa.published.DATASETS`}."""

_ENDINGS = (".mp4", ".webm", ".mkv", ".avi", ".mov")


@dataclass(frozen=True)
class Entry:
    """One clip of a data set.

    name: unique in its split; what messages and saved scores call it.
    label: index into the classes; -1 where the split has no labels.
    path: a video file, or a folder of frames ``00001.jpg``, ``00002.jpg``, ...; inside the root.
    span: first and last second, where the clip is a part of the file.
    frames: number of frames, if a manifest knows it.
    """

    name: str
    label: int
    path: Path
    span: tuple[float, float] | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Split:
    """A split of a data set: ``entries[i].label`` is the index of its text in ``classes``, or -1.

    data, name: what `open_split` was asked for. root: the folder that every path lies in. annotations: the files that
    were read, for messages and for `minirsa.data.prepare`.
    """

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    data: str
    name: str
    root: Path
    annotations: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        return f"{self.data} {self.name}"


# Where things are ----------------------------------------------------------------------------------------------------


class Place:
    """A data set's root while one of its splits is read: finds files in it, and lets no path lead out of it."""

    def __init__(self, data: str, root: str | os.PathLike, split: str):
        self.data, self.split = data, split
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"expected the folder of {data} at {self.root}: there is none")
        if split not in SPLITS[data]:
            raise ValueError(f"expected a split out of {', '.join(SPLITS[data])} of {data}, got {split!r}")

    def find(self, *names: str, optional: bool = False) -> Path | None:
        """The first of some annotation files that is there, in the root or a usual folder of it."""
        for name in names:
            for folder in ("", "labels", "annotations", "categories"):
                path = self.root / folder / name
                if path.is_file():
                    return path
        if optional:
            return None
        raise FileNotFoundError(
            f"expected {' or '.join(names)} of {self.data} in {self.root}, its labels/ or annotations/: none is there"
        )

    def folder(self, *names: str) -> Path:
        """The first of some folders of the root that is there, relative to it; the first if none is."""
        return Path(next((name for name in names if (self.root / name).is_dir()), names[0]))

    def listing(self, folder: str) -> dict[str, str]:
        """{name without ending: file name} of the videos in a folder of the root; empty if there is none."""
        try:
            names = sorted(os.listdir(self.root / folder))
        except FileNotFoundError:
            return {}
        return {stem: name for name in names for stem, ending in [os.path.splitext(name)] if ending.lower() in _ENDINGS}

    def split_of(self, classes: Iterable[str], rows: list[tuple], *annotations: Path) -> Split:
        """The split out of (name, label, folder, file, span) of each entry, every path looked at."""
        entries, names, safe = [], set(), set()
        for name, label, folder, file, span in rows:
            if name in names:
                raise ValueError(f"expected every entry of {self.data} {self.split} once, got {name!r} twice")
            names.add(name)
            path = inside(file, f"entry {name!r} of {self.data} {self.split}")
            path = folder / path
            if path.parent not in safe:  # its folder, once; the file itself is looked at when it is read
                check_links(self.root, self.root / path.parent)
                safe.add(path.parent)
            entries.append(Entry(name, label, self.root / path, span))
        return Split(tuple(classes), tuple(entries), self.data, self.split, self.root, tuple(annotations))


def with_frames(split: Split) -> Split:
    """The split with the frames that its root's `MANIFEST` lists in the place of videos."""
    prepared = read_manifest(split.root)
    if not prepared:
        return split
    entries, safe = [], set()
    for entry in split.entries:
        line = prepared.get(entry.name)
        if line is not None:
            path = split.root / inside(line["path"], f"entry {entry.name!r} of {split.root / MANIFEST}")
            if path.parent not in safe:
                check_links(split.root, path.parent)
                safe.add(path.parent)
            entry = Entry(entry.name, entry.label, path, frames=line["frames"])
        entries.append(entry)
    return replace(split, entries=tuple(entries))


def inside(path: str, whose: str) -> PurePosixPath:
    """A relative path that stays where it starts. Raises ValueError for others, naming whose it is."""
    inner = PurePosixPath(path)
    # A backslash or a drive would lead elsewhere on Windows; a null character nowhere.
    if not path or inner.is_absolute() or ".." in inner.parts or re.search(r"[\\\x00]|^[A-Za-z]:", path):
        raise ValueError(f"{whose} points outside the data set's root: {path!r} is refused")
    return inner


def check_links(root: Path, path: Path) -> None:
    """Raise ValueError if links on the way lead a path of the root outside it. What is not there leads nowhere."""
    real, home = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, home]) != home:
        raise ValueError(
            f"{path} leads outside the data set's root, to {real}: refused; put the files themselves under {root}"
        )


def read_manifest(root: Path) -> dict[str, dict]:
    """{name: its line} of a root's `MANIFEST`; the last line of a name counts. Empty if there is no such file.

    A last line without its end (a killed run) is left out. Raises ValueError for other lines that are no entries.
    """
    path = root / MANIFEST
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    found = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            name, inner, frames = row["name"], row["path"], row["frames"]
            if not (isinstance(name, str) and isinstance(inner, str) and isinstance(frames, int) and frames > 0):
                raise ValueError("name, path or frames are not of their kind")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {path} is no entry of a manifest: {error!r}") from error
        found[name] = row
    return found


# What stands in annotation files -------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path, kind: type) -> list | dict:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"expected a JSON {kind.__name__} in {path}, got {type(content).__name__}")
    return content


def text_of(row: object, key: str, number: int, path: Path) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected {key!r} in entry {number} of {path}, got {row!r}")
    return value


def numbered(classes: list[str], path: Path) -> dict[str, int]:
    numbers = {text: number for number, text in enumerate(classes)}
    if len(numbers) < len(classes):
        double = next(text for number, text in enumerate(classes) if numbers[text] != number)
        raise ValueError(f"expected every class of {path} once, got {double!r} twice")
    return numbers


def look_up(numbers: dict[str, int], text: str, where: str) -> int:
    text = text.strip()
    if text not in numbers:
        near = difflib.get_close_matches(text, numbers, 1)
        raise ValueError(f"no class {text!r} for {where}" + (f"; the nearest is {near[0]!r}" if near else ""))
    return numbers[text]


def in_range(label: object, classes: int, where: str) -> int:
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
        raise ValueError(f"expected a label from 0 to {classes - 1} for {where}, got {label!r}")
    return label
