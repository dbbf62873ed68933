"""Small data sets in their real layouts. Every frame tells which clip it is of and which number it has."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minirsa.data.video import write_clip

LENGTH = 12
CLASSES = [
    "Pushing something from left to right",
    "Pushing something from right to left",
    "Covering something with something",
]


def numbered_clip(clip, length=LENGTH, height=64, width=96, step=15):
    """uint8 (T, H, W, 3): the left half's brightness is the frame's number, the right half's the clip's."""
    frames = np.empty((length, height, width, 3), np.uint8)
    frames[:, :, : width // 2] = (30 + step * np.arange(length))[:, None, None, None]
    frames[:, :, width // 2 :] = 30 + 30 * clip
    return frames


def frame_numbers(frames, step=15):
    """The numbers of frames (T, H, W, 3) of any size."""
    left = np.asarray(frames, np.float64)[:, :, : frames.shape[2] // 3].mean((1, 2, 3))
    return [round(value) for value in (left - 30) / step]


def clip_number(frames):
    return round((np.asarray(frames, np.float64)[:, :, -frames.shape[2] // 3 :].mean() - 30) / 30)


def _dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _something_v1(root, frames):
    _dump(root / "something-something-v1-labels.csv", "".join(f"{text}\n" for text in reversed(CLASSES)))
    _dump(root / "something-something-v1-train.csv", f"101;{CLASSES[0]}\n102;{CLASSES[1]}\n103;{CLASSES[2]}\n")
    _dump(root / "something-something-v1-validation.csv", f"104;{CLASSES[1]}\n")
    _dump(root / "something-something-v1-test.csv", "105\n")
    for clip, name in enumerate(("101", "102", "103", "104", "105")):
        folder = root / "20bn-something-something-v1" / name
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames(clip), 1):
            Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=95)


def _something_v2(root, videos):
    _dump(root / "labels/labels.json", {text: str(number) for number, text in enumerate(CLASSES)})
    bracketed = [text.replace("something", "[something]") for text in CLASSES]
    rows = [
        {"id": str(n), "label": "pushing a cup", "template": bracketed[n % 3], "placeholders": []} for n in range(4)
    ]
    _dump(root / "labels/train.json", rows[:3])
    _dump(root / "labels/validation.json", rows[3:])
    _dump(root / "labels/test.json", [{"id": "4"}])
    for clip in range(5):
        _copy(videos["webm"][clip], root / f"20bn-something-something-v2/{clip}.webm")


def _diving48(root, videos):
    _dump(root / "Diving48_vocab.json", [["Back", "15som", f"{n}5Twis", "FREE"] for n in range(3)])
    rows = [{"vid_name": f"_8Vy3dlHg2w_{n:05d}", "label": n % 3, "start_frame": 0, "end_frame": 12} for n in range(4)]
    _dump(root / "Diving48_V2_train.json", rows[:3])
    _dump(root / "Diving48_V2_test.json", rows[3:])
    for clip, row in enumerate(rows):
        _copy(videos["mp4"][clip], root / f"rgb/{row['vid_name']}.mp4")


ELEMENTS = [f"a_b-c_E_000010_000012_A_{n:04d}_{n + 1:04d}" for n in range(4)]


def _finegym(root, videos, kind):
    """Elements of 12 frames at 25 frames a second: the n-th begins at frame 10 + 12 n of the routine."""
    texts = ["(BB) round-off", "(BB) salto backward tucked", "(BB) salto backward tucked"]
    for name in ("gym99", "gym288"):
        _dump(
            root / f"{name}_categories.txt",
            "".join(f"Clabel:   {n}; set:   2{n}; Glabel:  {n}{n}; {text}\n" for n, text in enumerate(texts)),
        )
        train = "".join(f"{element} {n}\n" for n, element in enumerate(ELEMENTS[:3]))
        _dump(root / f"{name}_train_element_v1.0.txt", train)
        _dump(root / f"{name}_train_element_v1.1.txt", f"{train}{ELEMENTS[2].replace('0002', '0007')} 2\n")
        _dump(root / f"{name}_val_element.txt", f"{ELEMENTS[3]} 1\n")
    parts = [[[0.4 + 0.48 * n, 0.6 + 0.48 * n], [0.7 + 0.48 * n, 0.88 + 0.48 * n]] for n in range(4)]
    segments = {e.split("_E_000010_000012_")[1]: {"stages": 2, "timestamps": p} for e, p in zip(ELEMENTS, parts)}
    routine = {"event": 3, "timestamps": [[0.2, 2.6]], "segments": segments}
    _dump(root / "finegym_annotation_info_v1.1.json", {"a_b-c": {"E_000010_000012": routine}})
    if kind == "subactions":
        for clip, element in enumerate(ELEMENTS):
            _copy(videos["mp4"][clip], root / f"subactions/{element}.mp4")
    elif kind == "events":
        _copy(videos["routine"], root / "events/a_b-c_E_000010_000012.mp4")
    else:
        _copy(videos["routine"], root / "videos/a_b-c.mp4")


def _clips(root, videos):
    rows = [("a.mp4", 0, "train"), ("deep/b.mp4", 1, "train"), ("c.mp4", 2, "train"), ("d.mp4", 1, "validation")]
    lines = [f'"{name}",{CLASSES[label]},{split}' for name, label, split in rows]
    _dump(root / "labels.csv", "\n".join(["clip,label,split", *lines]) + "\n")
    for clip, (name, _, _) in enumerate(rows):
        _copy(videos["mp4"][clip], root / name)


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.fixture(scope="session")
def layouts(tmp_path_factory) -> dict[str, Path]:
    """{data set: its root}. Not to be written to: take `copied` for that."""
    home = tmp_path_factory.mktemp("layouts")
    videos = {"mp4": [], "webm": []}
    for clip in range(5):
        for ending in videos:
            videos[ending].append(home / f"{clip}.{ending}")
            write_clip(videos[ending][-1], numbered_clip(clip))
    videos["routine"] = home / "routine.mp4"
    write_clip(videos["routine"], numbered_clip(0, 70, step=3), fps=25)
    roots = {name: home / name for name in ("something-v1", "something-v2", "diving48", "clips")}
    _something_v1(roots["something-v1"], numbered_clip)
    _something_v2(roots["something-v2"], videos)
    _diving48(roots["diving48"], videos)
    _clips(roots["clips"], videos)
    for kind in ("subactions", "events", "videos"):
        roots[f"gym {kind}"] = home / f"gym {kind}"
        _finegym(roots[f"gym {kind}"], videos, kind)
    roots["gym99"] = roots["gym288"] = roots["gym subactions"]
    return roots


@pytest.fixture
def copied(layouts, tmp_path):
    """copied(name) -> a root that may be changed."""

    def copy(name):
        return Path(shutil.copytree(layouts[name], tmp_path / "root"))

    return copy


@pytest.fixture(scope="session")
def numbers():
    """The functions that read a frame's and a clip's number off a picture, and the one that draws them."""

    class Numbers:
        frames, clip, draw = staticmethod(frame_numbers), staticmethod(clip_number), staticmethod(numbered_clip)

    return Numbers
