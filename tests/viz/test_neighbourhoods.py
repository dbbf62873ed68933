"""Neighbourhoods on a clip: every patch has the colours of the branches that see it, and boxes stand in order."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from minirsa.viz.neighbourhoods import COLORS, neighbourhoods, scheme_blocks, tinted
from minirsa.viz.style import PALETTE

GRID = (3, 2, 4)
FRAMES = np.full((3, 20, 40, 3), 100, np.uint8)


def mask(*places):
    result = np.zeros(GRID, bool)
    for place in places:
        result[place] = True
    return result


def hue(pixel):
    """Which palette role a tinted pixel leans to; None for grey."""
    if np.ptp(pixel) < 1e-9:
        return None
    grey = 0.38 * 100 / 255
    return min(COLORS, key=lambda name: np.abs(0.62 * np.array(to_rgb(PALETTE[name])) + grey - pixel).sum())


def test_a_patch_has_the_colour_of_the_branch_that_sees_it_and_others_are_grey():
    first, second = mask((0, 0, 1)), mask((0, 1, 3))
    picture = tinted(FRAMES[0], np.stack([first[0], second[0]]))
    assert {hue(pixel) for pixel in picture[:10, 10:20].reshape(-1, 3)} == {COLORS[0]}
    assert {hue(pixel) for pixel in picture[10:, 30:].reshape(-1, 3)} == {COLORS[1]}
    assert {hue(pixel) for pixel in picture[:, :10].reshape(-1, 3)} == {None}


def test_a_patch_that_several_branches_see_is_striped_in_their_colours():
    here = mask((0, 1, 2))[0]
    picture = tinted(FRAMES[0], np.stack([here, here]))
    assert {hue(pixel) for pixel in picture[10:, 20:25].reshape(-1, 3)} == {COLORS[0]}
    assert {hue(pixel) for pixel in picture[10:, 25:30].reshape(-1, 3)} == {COLORS[1]}
    three = tinted(FRAMES[0], np.stack([here, here & False, here]))  # the one in between does not see it
    assert [hue(three[15, column]) for column in (20, 24, 25, 29)] == [COLORS[0]] * 2 + [COLORS[2]] * 2


def test_rows_are_schemes_and_columns_the_frames_that_are_shown():
    schemes = {"one": {"time": mask((0, 1, 1), (2, 1, 1))}, "two": {"time": mask((1, 0, 0)), "space": ~mask()}}
    figure = neighbourhoods(FRAMES, schemes, query=(1, 1, 1), shown=[0, 1])
    assert len(figure.axes) == 4
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "", "two", ""]
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes if ax.get_legend()]
    assert legends == [["time: 2"], ["time: 1", "space: 24"]]  # of the whole clip, not of the frames that are shown
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert words == ["frame 1", "frame 2 (query)"]
    marked = [len(ax.patches) for ax in figure.axes]
    assert marked == [0, 1, 0, 1]
    box = figure.axes[1].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (9.5, 9.5, 10, 10)
    assert len(neighbourhoods(FRAMES, schemes, query=(0, 0, 0)).axes) == 6


@pytest.mark.parametrize(("schemes", "options", "reason"), [
    ({}, {}, "at least one"),
    ({"a": {}}, {}, "1 to 3 branches"),
    ({"a": dict.fromkeys("wxyz", mask())}, {}, "1 to 3 branches"),
    ({"a": {"time": mask()[:2]}}, {}, r"expected shape \(3, gh, gw\), got \(2, 2, 4\)"),
    ({"a": {"time": mask(), "space": mask()[:, :1]}}, {}, r"'space'\]: expected shape \(3, 2, 4\)"),
    ({"a": {"time": mask().astype(float)}}, {}, "expected bool, got float64"),
    ({"a": {"time": mask()}}, {"query": (3, 0, 0)}, r"inside \(3, 2, 4\), got \(3, 0, 0\)"),
    ({"a": {"time": mask()}}, {"query": (0, 0)}, "query"),
    ({"a": {"time": mask()}}, {"shown": [3]}, "frames from 0 to 2"),
    ({"a": {"time": mask()}}, {"shown": []}, "shown"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(schemes, options, reason):
    with pytest.raises(ValueError, match=reason):
        neighbourhoods(FRAMES, schemes, **{"query": (0, 0, 0), **options})


def test_blocks_stand_side_by_side_with_their_parts_from_below():
    figure = scheme_blocks(
        {"one": [("space", ""), ("MLP", "")], "two": [("time", "alone"), ("MLP", "")]}, ends=("in", "out")
    )
    texts = {
        (text.get_text(), round(text.get_position()[0], 2)): text.get_position()[1] for text in figure.axes[0].texts
    }
    for scheme, first, x in (("one", "space", 0.46), ("two", "time", 1.46)):
        heights = [texts[name, x] for name in ("in", first, "MLP", "out", scheme)]
        assert heights == sorted(heights)
    assert texts["alone", 1.46] < texts["time", 1.46]
    assert sum(text.get_text() == "+" for text in figure.axes[0].texts) == 4  # a residual sum for each part


@pytest.mark.parametrize("schemes", [{}, {"one": []}])
def test_blocks_without_parts_are_refused(schemes):
    with pytest.raises(ValueError, match="at least one"):
        scheme_blocks(schemes, ends=("in", "out"))
