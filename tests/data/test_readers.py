"""Every data set's own layout is read; what does not fit is refused by name; no entry leads out of the root."""

import json
import os
from pathlib import Path

import pytest

from minirsa import published
from minirsa.data.layout import PUBLISHED
from minirsa.data.readers import READERS, SPLITS, available_splits, evaluation_split, finegym, open_split

SETS = ["something-v1", "something-v2", "diving48", "gym99", "gym288", "clips"]


def test_every_reader_has_splits_and_a_published_size():
    assert sorted(READERS) == sorted(SPLITS) == sorted(SETS)
    assert set(PUBLISHED.values()) == {row.name for row in published.DATASETS}
    for name, row in PUBLISHED.items():
        assert getattr(published.DATASETS.find(name=row), evaluation_split(name))


@pytest.mark.parametrize("data", SETS)
def test_a_split_lists_its_clips_with_labels_and_files(layouts, data):
    split = open_split(data, layouts[data], "train")
    assert (split.data, split.name, split.root, str(split)) == (data, "train", layouts[data], f"{data} train")
    assert len(split) == len(split.classes) == 3
    alphabetical = data in ("something-v1", "clips")  # the first two sets of numbers are the annotations' own
    assert [entry.label for entry in split.entries] == ([1, 2, 0] if alphabetical else [0, 1, 2])
    for entry in split.entries:
        assert entry.path.exists()
        assert (entry.span, entry.frames) == (None, None)
    held_out = open_split(data, layouts[data], evaluation_split(data))
    assert held_out.classes == split.classes
    assert not {entry.name for entry in held_out.entries} & {entry.name for entry in split.entries}
    for path in split.annotations:
        assert path.is_file()


def test_something_v1_numbers_its_classes_alphabetically(layouts):
    split = open_split("something-v1", layouts["something-v1"], "train")
    assert list(split.classes) == sorted(split.classes)
    assert [split.classes[entry.label] for entry in split.entries] == [
        "Pushing something from left to right",
        "Pushing something from right to left",
        "Covering something with something",
    ]
    assert split.entries[0].path == layouts["something-v1"] / "20bn-something-something-v1" / "101"


def test_test_sets_without_labels_have_label_minus_one(layouts):
    for data in ("something-v1", "something-v2"):
        assert [entry.label for entry in open_split(data, layouts[data], "test").entries] == [-1]


def test_answers_of_something_v2_label_its_test_set(copied):
    root = copied("something-v2")
    (root / "labels/test-answers.csv").write_text("4;Covering something with something\n")
    assert [entry.label for entry in open_split("something-v2", root, "test").entries] == [2]


def test_something_v2_takes_its_older_file_names_and_other_folders(copied):
    root = copied("something-v2")
    for path in list((root / "labels").iterdir()):
        path.rename(root / f"something-something-v2-{path.name}")
    (root / "20bn-something-something-v2").rename(root / "videos")
    split = open_split("something-v2", root, "validation")
    assert [(entry.name, entry.label) for entry in split.entries] == [("3", 0)]
    assert split.entries[0].path.is_file()


@pytest.mark.parametrize("classes", [99, 288])
def test_finegym_tells_classes_of_the_same_text_apart(layouts, classes):
    split = open_split(f"gym{classes}", layouts["gym subactions"], "train")
    assert split.classes == (
        "(BB) round-off",
        "(BB) salto backward tucked [class 1]",
        "(BB) salto backward tucked [class 2]",
    )


@pytest.mark.parametrize(("kind", "shift"), [("events", 0.0), ("videos", 0.2)])
def test_finegym_finds_elements_in_routines_and_whole_videos(layouts, kind, shift):
    split = open_split("gym99", layouts[f"gym {kind}"], "train")
    starts = [entry.span[0] for entry in split.entries]
    ends = [entry.span[1] for entry in split.entries]
    assert starts == pytest.approx([0.4 + shift, 0.88 + shift, 1.36 + shift])
    assert ends == pytest.approx([0.88 + shift, 1.36 + shift, 1.84 + shift])  # over all parts of the element
    assert len({entry.path for entry in split.entries}) == 1
    assert split.entries[0].path.is_file()


def test_finegym_prefers_the_shortest_file_and_lists_what_is_missing(copied):
    root = copied("gym events")
    (root / "subactions").mkdir()
    name = "a_b-c_E_000010_000012_A_0001_0002"
    (root / f"subactions/{name}.webm").write_bytes(b"")
    split = open_split("gym99", root, "train")
    assert [entry.span is None for entry in split.entries] == [False, True, False]
    assert split.entries[1].path == root / f"subactions/{name}.webm"
    (root / "events/a_b-c_E_000010_000012.mp4").unlink()
    split = open_split("gym99", root, "train")
    assert len(split) == 3
    assert split.entries[0].path.name == "a_b-c_E_000010_000012_A_0000_0001.mp4"
    assert not split.entries[0].path.exists()


def test_finegym_without_times_says_which_file_has_them(copied):
    root = copied("gym events")
    (root / "finegym_annotation_info_v1.1.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"finegym_annotation_info_v1\.1\.json"):
        open_split("gym99", root, "train")


def test_folder_of_clips_reads_one_csv_for_each_split_too(copied):
    root = copied("clips")
    (root / "labels.csv").unlink()
    (root / "train.csv").write_text("label,clip\nzebra,a.mp4\n")
    (root / "test.csv").write_text("clip,label\nc.mp4,ant\nd.mp4,\n")
    assert available_splits("clips", root) == ["train", "test"]
    split = open_split("clips", root, "test")
    assert split.classes == ("ant", "zebra")
    assert [(entry.name, entry.label) for entry in split.entries] == [("c.mp4", 0), ("d.mp4", -1)]
    (root / "classes.txt").write_text("zebra\nant\nbee\n")
    split = open_split("clips", root, "test")
    assert split.classes == ("zebra", "ant", "bee")
    assert [entry.label for entry in split.entries] == [1, -1]
    assert {path.name for path in split.annotations} == {"train.csv", "test.csv", "classes.txt"}


def test_one_list_without_splits_is_not_trained_and_tested_on(copied):
    root = copied("clips")
    (root / "labels.csv").write_text("clip,label\na.mp4,one\n")
    assert len(open_split("clips", root, "all")) == 1
    with pytest.raises(FileNotFoundError, match="add a column split"):
        open_split("clips", root, "train")


def test_the_books_own_samples_are_a_folder_of_clips():
    split = open_split("clips", Path(__file__).resolve().parents[2] / "data_samples", "all")
    assert len(split) == 14
    assert len(split.classes) == 12


@pytest.mark.parametrize("data", SETS)
def test_splits_are_found_by_their_annotations(layouts, data):
    expected = [split for split in SPLITS[data] if not (data == "clips" and split in ("test", "all"))]
    assert available_splits(data, layouts[data]) == expected


@pytest.mark.parametrize("data", SETS)
def test_missing_annotations_and_roots_are_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        open_split(data, tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        open_split(data, tmp_path, "train")
    with pytest.raises(FileNotFoundError):
        available_splits(data, tmp_path)


def test_unknown_sets_and_splits_are_refused_with_what_there_is(layouts):
    with pytest.raises(ValueError, match=r"out of something-v1, .*, got 'diving-48': did you mean 'diving48'\?"):
        open_split("diving-48", layouts["clips"], "train")
    with pytest.raises(ValueError, match="got 'x'"):
        evaluation_split("x")
    with pytest.raises(ValueError, match="out of train, test of diving48, got 'validation'"):
        open_split("diving48", layouts["diving48"], "validation")
    with pytest.raises(ValueError, match="expected 99 or 288 classes, got 100"):
        finegym(layouts["gym99"], "train", 100)


OUTSIDE = ["../a", "/etc/hostname", "a/../../b", "..", "a\\b", "C:x", "nul\0"]


def smuggle(data, root, name):
    """Put a name into a data set's training annotations."""
    if data == "something-v1":
        (root / "something-something-v1-train.csv").write_text(f"{name};Covering something with something\n")
    elif data == "something-v2":
        row = {"id": name, "template": "Covering [something] with [something]"}
        (root / "labels/train.json").write_text(json.dumps([row]))
    elif data == "diving48":
        (root / "Diving48_V2_train.json").write_text(json.dumps([{"vid_name": name, "label": 0}]))
    elif data == "clips":
        (root / "labels.csv").write_text(f"clip,label,split\n{name},x,train\n")
    else:
        (root / f"{data}_train_element_v1.0.txt").write_text(f"{name}_E_000001_000002_A_0001_0002 0\n")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("data", SETS)
def test_an_entry_that_points_outside_the_root_is_refused(copied, data, name):
    root = copied(data)
    smuggle(data, root, name)
    if name == ".." and data in ("something-v2", "diving48", "gym99", "gym288"):
        assert open_split(data, root, "train").entries[0].path.parent.parent == root  # "...webm" is a file of that name
        return
    with pytest.raises(ValueError, match="outside the data set's root"):
        open_split(data, root, "train")


def test_a_folder_that_a_link_leads_outside_is_refused(copied, tmp_path):
    root = copied("something-v2")
    (root / "20bn-something-something-v2").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "20bn-something-something-v2")
    with pytest.raises(ValueError, match="leads outside the data set's root"):
        open_split("something-v2", root, "train")
    (tmp_path / "elsewhere").rename(root / "inside")
    (root / "20bn-something-something-v2").unlink()
    os.symlink(root / "inside", root / "20bn-something-something-v2")
    assert len(open_split("something-v2", root, "train")) == 3


@pytest.mark.parametrize(
    ("data", "file", "content", "message"),
    [
        (
            "something-v1",
            "something-something-v1-train.csv",
            "7;Covering something",
            "no class 'Covering something' for '7'",
        ),
        ("something-v1", "something-something-v1-train.csv", "7;", "no class '' for '7'"),
        ("something-v1", "something-something-v1-labels.csv", "a\na\n", "'a' twice"),
        ("something-v2", "labels/labels.json", '{"a": "0", "b": "2"}', "leave numbers out"),
        ("something-v2", "labels/labels.json", '["a"]', "expected a JSON dict"),
        ("something-v2", "labels/labels.json", '{"a": ', "not JSON"),
        ("something-v2", "labels/train.json", '[{"id": "1", "template": "x"}]', "no class 'x' for entry 0"),
        ("something-v2", "labels/train.json", '[{"template": "x"}]', "expected 'id' in entry 0"),
        ("something-v2", "labels/train.json", "[3]", "expected 'id' in entry 0"),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "a", "label": 3}]', "from 0 to 2 for 'a'.*got 3"),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "a", "label": "1"}]', "from 0 to 2 for 'a'.*got '1'"),
        (
            "diving48",
            "Diving48_V2_train.json",
            '[{"vid_name": "a", "label": 1}, {"vid_name": "a", "label": 1}]',
            "twice",
        ),
        ("diving48", "Diving48_vocab.json", '["Back"]', "list of lists of words"),
        ("gym99", "gym99_categories.txt", "0 round-off\n", "Clabel"),
        ("gym99", "gym99_categories.txt", "Clabel: 1; set: 1; x\n", "each once"),
        ("gym99", "gym99_train_element_v1.0.txt", "name\n", "name label"),
        ("gym99", "gym99_train_element_v1.0.txt", "a_E_1_A_2 0\n", "YTID_E_ssssss_eeeeee_A_ssss_eeee"),
        ("gym99", "gym99_train_element_v1.0.txt", "a_E_1_2_A_1_2 99\n", "from 0 to 2"),
        ("clips", "labels.csv", "file,label\na,b\n", "expected columns clip,label"),
        ("clips", "labels.csv", "clip,label\n,b\n", "line 2"),
        ("clips", "labels.csv", b"clip,label\n\xff,b\n", "not UTF-8"),
        ("clips", "manifest.jsonl", '{"name": "a.mp4"}\n', "line 1 of .*manifest.jsonl"),
        ("clips", "manifest.jsonl", '{"name": "a.mp4", "path": "../x", "frames": 3}\n', "outside the data set's root"),
        ("clips", "manifest.jsonl", '{"name": "a.mp4", "path": "x", "frames": 0}\n', "line 1"),
    ],
)
def test_annotations_that_do_not_fit_are_refused_with_file_and_entry(copied, data, file, content, message):
    root = copied(data)
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        open_split(data, root, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("times", [{}, {"a_b-c": {}}, {"a_b-c": {"E_000010_000012": {"segments": None}}}])
def test_an_element_without_times_is_refused_by_name(copied, times):
    root = copied("gym events")
    (root / "finegym_annotation_info_v1.1.json").write_text(json.dumps(times))
    with pytest.raises(ValueError, match="no times for a_b-c_E_000010_000012_A_0000_0001"):
        open_split("gym99", root, "train")


def test_frames_of_a_manifest_are_preferred_to_videos(copied):
    root = copied("clips")
    line = {"name": "a.mp4", "path": "frames/a.mp4", "frames": 5}
    torn = '{"name": "c.mp4", "pa'  # a killed run's last line
    (root / "manifest.jsonl").write_text(json.dumps({**line, "frames": 4}) + "\n" + json.dumps(line) + "\n" + torn)
    first, second, third = open_split("clips", root, "train").entries
    assert (first.path, first.frames) == (root / "frames/a.mp4", 5)
    assert (second.path, second.frames) == (root / "deep/b.mp4", None)
    assert (third.path, third.frames) == (root / "c.mp4", None)
    assert open_split("clips", root, "train", frames=False).entries[0].path == root / "a.mp4"
