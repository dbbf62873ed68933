"""Folders of frames 00001.jpg, 00002.jpg, ..., as Something-Something V1 comes and as `minirsa.data.prepare` writes.

    folder -> count_frames -> T        folder/00007.jpg -> read_picture -> uint8 (H, W, 3)

What is no whole folder or no whole picture raises `VideoReadError`, as a video does that cannot be read. Only numpy and
Pillow are needed here, so that processes that do nothing else start quickly.

Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minirsa.data.layout import Entry, check_links
from minirsa.data.stream import read_span, span_length
from minirsa.data.video import VideoReadError, clip_length, read_clip

__all__ = ["check_inside", "count_frames", "frame_name", "read_frames", "read_picture"]


def read_frames(entry: Entry, root: Path, pick: Callable[[int], Sequence[int]]) -> np.ndarray:
    """Some frames of a clip, from its video or its folder of frames: uint8 (T, H, W, 3).

    ``pick(length)`` says which, knowing how many there are. Raises VideoReadError, naming the file, for a clip that is
    missing, unreadable, empty or shorter than its manifest says, or whose path a link leads outside ``root``.
    """
    path = entry.path
    check_inside(root, path)
    if entry.frames is not None or path.is_dir():
        length = entry.frames if entry.frames is not None else count_frames(path)
        return _read_folder(path, pick(length), root)
    if entry.span is not None:
        return read_span(path, entry.span, pick(span_length(path, entry.span)))
    return read_clip(path, pick(clip_length(path)))


def frame_name(number: int) -> str:
    """The file of frame 1, 2, ...: ``00001.jpg``."""
    return f"{number:05d}.jpg"


def count_frames(folder: Path) -> int:
    """The number of frames ``00001.jpg``, ``00002.jpg``, ... in a folder.

    Raises VideoReadError for a folder that is not there or holds none, and for one with gaps.
    """
    try:
        names = {name for name in os.listdir(folder) if re.fullmatch(r"\d{5,}\.jpg", name)}
    except FileNotFoundError as error:
        raise VideoReadError(folder, "no such folder") from error
    except OSError as error:
        raise VideoReadError(folder, (error.strerror or str(error)).lower()) from error
    if not names:
        raise VideoReadError(folder, "no frames 00001.jpg, 00002.jpg, ... in it")
    for number in range(1, len(names) + 1):
        if frame_name(number) not in names:
            raise VideoReadError(folder, f"{len(names)} frames, but no {frame_name(number)} among them")
    return len(names)


def read_picture(path: Path) -> np.ndarray:
    """A JPEG as uint8 (H, W, 3), RGB. Raises VideoReadError, also for one that is cut short."""
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise VideoReadError(path, "no such file") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoReadError(path, f"no whole picture: {error}") from error


def check_inside(root: Path, path: Path) -> None:
    """Raise VideoReadError if a link leads a path of the root outside it."""
    try:
        check_links(root, path)
    except ValueError as error:
        raise VideoReadError(path, str(error)) from error


def _read_folder(folder: Path, indices: Sequence[int], root: Path) -> np.ndarray:
    """The frames at some indices, from 0, of a folder of frames: uint8 (T, H, W, 3)."""
    found: dict[int, np.ndarray] = {}
    for index in indices:
        if index not in found:
            path = folder / frame_name(index + 1)
            check_inside(root, path)
            found[index] = read_picture(path)
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoReadError(folder, "its frames change size")
    return np.stack([found[index] for index in indices])
