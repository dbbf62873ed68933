"""What is in a data set: its classes, and every clip of a split with its label and file, read from its annotations.

    root/ annotation files + videos or frames  ->  open_split(data, root, "train")  ->  Split(classes, entries, ...)

One interface for Something-Something V1 and V2, Diving-48 V2, FineGym (Gym99, Gym288) and any folder of clips with a
csv; each reader's docstring shows the layout it expects, which is the one that the set comes in. Nothing is decoded
here and no file of a clip is opened: an entry whose video is missing is listed like any other, and reading it fails by
name. A path that would leave the root (absolute, with "..", or by a link) is refused.

`minirsa.data.prepare` turns videos into frames and lists them in ``root/manifest.jsonl``. `open_split` takes an entry
that stands there from its frames, and the others from their videos.

None of these data sets comes with this project: `minirsa.published.DATASETS` says who offers them.
Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

from minirsa.data.layout import (
    SPLITS,
    Entry,
    Place,
    Split,
    in_range,
    look_up,
    numbered,
    read_json,
    read_lines,
    read_text,
    text_of,
    with_frames,
)

__all__ = ["READERS", "SPLITS", "Entry", "Split", "available_splits", "evaluation_split", "open_split"]


def open_split(data: str, root: str | os.PathLike, split: str, *, frames: bool = True) -> Split:
    """The split "train", "validation" or "test" of a data set of `READERS`, in the folder ``root``.

    frames: take prepared frames where ``root/manifest.jsonl`` lists them; else every entry is as the set comes.

    Raises ValueError for a set or split that there is not, for annotations that do not fit the set's format (naming
    file and entry) and for an entry that points outside the root; FileNotFoundError for a missing annotation file.
    """
    _check_known(data)
    found = READERS[data](root, split)
    return with_frames(found) if frames else found


def available_splits(data: str, root: str | os.PathLike) -> list[str]:
    """The splits whose annotations are there. Raises as `open_split`, also if there are none."""
    _check_known(data)
    found, errors = [], []
    for split in SPLITS[data]:
        try:
            READERS[data](root, split)
            found.append(split)
        except FileNotFoundError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def evaluation_split(data: str) -> str:
    """The split that papers report on: "validation", or "test" for Diving-48, which has no other.

    Raises ValueError for a data set that there is not.
    """
    _check_known(data)
    return SPLITS[data][1]


def _check_known(data: str) -> None:
    if data not in READERS:
        near = difflib.get_close_matches(data, READERS, 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected a data set out of {', '.join(READERS)}, got {data!r}{hint}")


# Readers -------------------------------------------------------------------------------------------------------------


def something_v1(root: str | os.PathLike, split: str) -> Split:
    """Something-Something V1 (Goyal et al. 2017, arXiv 1706.04261)::

        something-something-v1-labels.csv       a class a line
        something-something-v1-train.csv        id;class  (so too ...-validation.csv)
        something-something-v1-test.csv         id        (no labels)
        20bn-something-something-v1/ID/00001.jpg ...      frames at 12 a second

    The csv files may also lie in ``labels/`` or ``annotations/``. Classes are numbered alphabetically, as in the lists
    that TSM and the RSA release train on, so that their weights fit; the labels file has another order.
    """
    place = Place("something-v1", root, split)
    labels = place.find("something-something-v1-labels.csv")
    classes = sorted(line.strip() for line in read_lines(labels))
    numbers = numbered(classes, labels)
    rows = place.find(f"something-something-v1-{split}.csv")
    folder = place.folder("20bn-something-something-v1")
    entries = []
    for line in read_lines(rows):
        name, _, text = line.partition(";")
        label = -1 if split == "test" and not text else look_up(numbers, text, f"{name!r} of {rows}")
        entries.append((name, label, folder, name, None))
    return place.split_of(classes, entries, labels, rows)


def something_v2(root: str | os.PathLike, split: str) -> Split:
    """Something-Something V2::

        labels/labels.json                          {"class": "number", ...}
        labels/train.json (so too validation.json)  [{"id": ..., "template": "Moving [something] up", ...}, ...]
        labels/test.json                            [{"id": ...}, ...]
        labels/test-answers.csv                     id;class  (only in newer copies; without it test has no labels)
        20bn-something-something-v2/ID.webm         VP9 at 12 frames a second

    The older names ``something-something-v2-train.json`` and so on are taken as well, and the files may lie in the root
    or in ``annotations/``; the videos may lie in ``videos/``. An entry's class is its template without brackets.
    """
    place = Place("something-v2", root, split)
    labels = place.find("labels.json", "something-something-v2-labels.json")
    content = read_json(labels, dict)
    try:
        classes = sorted(content, key=lambda text: int(content[text]))
        if [int(content[text]) for text in classes] != list(range(len(classes))):
            raise ValueError("they leave numbers out or use them twice")
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a number from 0 for each class in {labels}: {error}") from error
    numbers = numbered(classes, labels)
    rows = place.find(f"{split}.json", f"something-something-v2-{split}.json")
    used, answers = [labels, rows], {}
    if split == "test":
        found = place.find("test-answers.csv", "something-something-v2-test-answers.csv", optional=True)
        if found is not None:
            used.append(found)
            answers = dict(line.split(";", 1) if ";" in line else (line, "") for line in read_lines(found))
    folder = place.folder("20bn-something-something-v2", "videos")
    entries = []
    for number, row in enumerate(read_json(rows, list)):
        name, where = text_of(row, "id", number, rows), f"entry {number} of {rows}"
        if split != "test":
            text = re.sub(r"[\[\]]", "", text_of(row, "template", number, rows))
            label = look_up(numbers, text, where)
        else:
            label = look_up(numbers, answers[name], where) if name in answers else -1
        entries.append((name, label, folder, f"{name}.webm", None))
    return place.split_of(classes, entries, *used)


def diving48(root: str | os.PathLike, split: str) -> Split:
    """Diving-48 V2 (Li, Li, Vasconcelos 2018)::

        Diving48_vocab.json                              [["Back", "15som", "05Twis", "FREE"], ...], one for each label
        Diving48_V2_train.json (so too ..._test.json)    [{"vid_name": ..., "label": ...}, ...]
        rgb/VID_NAME.mp4

    Annotations may also lie in ``annotations/``, videos in ``videos/``. The second split is called "test". A class is
    called by its four words: take-off, somersaults, twists, position.
    """
    place = Place("diving48", root, split)
    vocabulary = place.find("Diving48_vocab.json")
    content = read_json(vocabulary, list)
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in content):
        raise ValueError(f"expected a list of lists of words in {vocabulary}")
    classes = [" ".join(words) for words in content]
    rows = place.find(f"Diving48_V2_{split}.json")
    folder = place.folder("rgb", "videos")
    entries = []
    for number, row in enumerate(read_json(rows, list)):
        name = text_of(row, "vid_name", number, rows)
        label = in_range(row.get("label"), len(classes), f"{name!r} of {rows}")
        entries.append((name, label, folder, f"{name}.mp4", None))
    return place.split_of(classes, entries, vocabulary, rows)


def finegym(root: str | os.PathLike, split: str, classes: int = 99) -> Split:
    """FineGym, Gym99 or Gym288 (Shao et al. 2020, arXiv 2004.06704)::

        gym99_categories.txt                    Clabel: 0; set: 1; Glabel: 1; (VT) round-off, ...
        gym99_train_element_v1.0.txt            NAME label, NAME = YTID_E_ssssss_eeeeee_A_ssss_eeee
        gym99_val_element.txt                   the same; Gym288's files are called gym288_...
        finegym_annotation_info_v1.1.json       times of routines and, inside them, of elements
        subactions/NAME.mp4                     clips cut out, or
        events/YTID_E_ssssss_eeeeee.mp4         routines, or
        videos/YTID.mp4                         whole videos (or other endings: .webm, .mkv, ...)

    Annotations may also lie in ``annotations/`` or ``categories/``. Each clip is taken from the shortest file there is;
    in a routine or a whole video the annotation's times, in seconds, say where (the times in a name are rounded).
    Version 1.0 of a training list is preferred to newer ones: the published counts are its own. Classes whose text is
    there twice get their number added. The split "validation" is the file called val.

    Raises ValueError as `open_split`, and for ``classes`` other than 99 and 288.
    """
    if classes not in (99, 288):
        raise ValueError(f"expected 99 or 288 classes, got {classes!r}")
    place = Place(f"gym{classes}", root, split)
    categories = place.find(f"gym{classes}_categories.txt")
    texts = _categories(categories)
    kind = "val" if split == "validation" else split
    names = [f"gym{classes}_{kind}_element{version}.txt" for version in ("_v1.0", "", "_v1.1")]
    rows = place.find(*names)
    used = [categories, rows]
    media = {folder: place.listing(folder) for folder in ("subactions", "events", "videos")}
    times: dict | None = None
    entries = []
    for line in read_lines(rows):
        name, label = _name_and_label(line, rows)
        label = in_range(label, len(texts), f"{name!r} of {rows}")
        video, event, action = _element(name, rows)
        file, span = media["subactions"].get(name), None
        folder = "subactions"
        if file is None and (f"{video}_{event}" in media["events"] or video in media["videos"]):
            if times is None:
                found = place.find("finegym_annotation_info_v1.1.json", "finegym_annotation_info_v1.0.json")
                times = read_json(found, dict)
                used.append(found)
            folder, key = ("events", f"{video}_{event}") if f"{video}_{event}" in media["events"] else ("videos", video)
            file = media[folder][key]
            span = _element_span(times, (video, event, action), used[-1], whole=folder == "videos")
        entries.append((name, label, Path(folder), file or f"{name}.mp4", span))
    return place.split_of(_told_apart(texts), entries, *used)


def clip_folder(root: str | os.PathLike, split: str) -> Split:
    """Any folder of clips with a csv, as ``data_samples/`` of this project is one::

        labels.csv              clip,label,split   one file for all splits, or
        train.csv               clip,label         one for each split (validation.csv, test.csv)
        classes.txt             a class a line     (optional: all classes, in the order of their numbers)
        .../a_clip.mp4 ...                         at the paths in column ``clip``, relative to the root

    A path may also lead to a folder of frames ``00001.jpg``, ... Without classes.txt the classes are all labels of all
    splits, in alphabetical order. An empty label means that there is none. ``labels.csv`` without a column ``split`` is
    one split, called "all": nothing is trained and tested on the same clips by accident.
    """
    place = Place("clips", root, split)
    rows = _clip_rows(place.root)
    there = sorted({name for name, _, _ in rows})
    if split not in there:
        advice = " (add a column split: train, validation or test)" if there == ["all"] else ""
        raise FileNotFoundError(f"expected clips of split {split!r} in {place.root}, there is {there}{advice}")
    files = list(dict.fromkeys(file for _, file, _ in rows))
    listed = place.root / "classes.txt"
    if listed.is_file():
        files.append(listed)
        classes = [line.strip() for line in read_lines(listed)]
    else:
        classes = sorted({row["label"] for _, _, row in rows} - {""})
    numbers = numbered(classes, listed)
    entries = []
    for name, file, row in rows:
        if name == split:
            label = look_up(numbers, row["label"], f"{row['clip']!r} of {file}") if row["label"] else -1
            entries.append((row["clip"], label, Path(), row["clip"], None))
    return place.split_of(classes, entries, *files)


READERS: dict[str, Callable[[str | os.PathLike, str], Split]] = {
    "something-v1": something_v1,
    "something-v2": something_v2,
    "diving48": diving48,
    "gym99": lambda root, split: finegym(root, split, 99),
    "gym288": lambda root, split: finegym(root, split, 288),
    "clips": clip_folder,
}
"""{name: reader(root, split)} of every data set on disk."""


# Lines of annotation files -------------------------------------------------------------------------------------------


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a csv with columns clip and label."""
    reader = csv.DictReader(read_text(path).splitlines())
    if not {"clip", "label"} <= set(reader.fieldnames or ()):
        raise ValueError(f"expected columns clip,label in {path}, got {','.join(reader.fieldnames or ()) or 'nothing'}")
    rows = [{key: value.strip() for key, value in row.items() if key and value is not None} for row in reader]
    for number, row in enumerate(rows, 2):
        if not {"clip", "label"} <= set(row) or not row["clip"]:
            raise ValueError(f"expected a clip and a label in line {number} of {path}, got {row}")
    return rows


def _clip_rows(root: Path) -> list[tuple[str, Path, dict[str, str]]]:
    """(split, file, row) of every row of a folder's labels.csv, or else of its train.csv, validation.csv and so on."""
    one = root / "labels.csv"
    if one.is_file():
        return [(row.get("split", "all"), one, row) for row in _table(one)]
    files = [file for split in SPLITS["clips"] if (file := root / f"{split}.csv").is_file()]
    if not files:
        raise FileNotFoundError(f"expected labels.csv, or train.csv and so on, in {root}: none is there")
    return [(file.stem, file, row) for file in files for row in _table(file)]


def _categories(path: Path) -> list[str]:
    """FineGym's classes, in the order of their numbers."""
    texts = {}
    for line in read_lines(path):
        match = re.fullmatch(r"\s*Clabel:\s*(\d+)\s*;.*?;\s*([^;]*\S)\s*", line)
        if match is None:
            raise ValueError(f'expected lines "Clabel: 0; ...; text" in {path}, got {line!r}')
        texts[int(match[1])] = match[2]
    if sorted(texts) != list(range(len(texts))):
        raise ValueError(f"expected Clabel 0, 1, 2, ... in {path}, each once")
    return [texts[number] for number in range(len(texts))]


def _told_apart(texts: list[str]) -> list[str]:
    """Class texts with their number added where two read alike (Gym99 has such a pair on the beam)."""
    plain = [" ".join(re.findall(r"[^\W_]+", text.lower())) for text in texts]
    return [f"{text} [class {number}]" if plain.count(plain[number]) > 1 else text for number, text in enumerate(texts)]


def _name_and_label(line: str, path: Path) -> tuple[str, int]:
    parts = line.split()
    if len(parts) != 2 or not parts[1].isdecimal():
        raise ValueError(f'expected lines "name label" in {path}, got {line!r}')
    return parts[0], int(parts[1])


def _element(name: str, path: Path) -> tuple[str, str, str]:
    """YTID, E_ssssss_eeeeee and A_ssss_eeee of a FineGym name; an id may itself hold underscores."""
    match = re.fullmatch(r"(.+)_(E_\d+_\d+)_(A_\d+_\d+)", name)
    if match is None:
        raise ValueError(f"expected names YTID_E_ssssss_eeeeee_A_ssss_eeee in {path}, got {name!r}")
    return match[1], match[2], match[3]


def _element_span(times: dict, element: tuple[str, str, str], path: Path, *, whole: bool) -> tuple[float, float]:
    """First and last second of an element in its routine's file or the ``whole`` video; a vault has several parts."""
    video, event, action = element
    try:
        routine = times[video][event]
        parts = routine["segments"][action]["timestamps"]
        start, end = float(parts[0][0]), float(parts[-1][1])
        shift = float(routine["timestamps"][0][0]) if whole else 0.0
        if not 0 <= start < end:
            raise ValueError(f"from {start} to {end}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"no times for {'_'.join(element)} in {path}: {error!r}") from error
    return start + shift, end + shift
