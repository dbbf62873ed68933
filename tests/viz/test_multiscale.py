"""The multiscale path: every stage a slab to one scale, labelled, and nonsense refused."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Polygon

from minirsa.viz.multiscale import Scale, multiscale_path

FLAT = [Scale("patch1", 64, (8, 14, 14)), Scale("scale2", 64, (8, 14, 14), 12)]
PYRAMID = [
    Scale("cube1", 8, (8, 56, 56)),
    Scale("scale2", 8, (8, 56, 56), 1),
    Scale("scale3", 16, (8, 28, 28), 2),
    Scale("scale4", 64, (8, 7, 7), 3),
]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def fronts(ax):
    """Width and height of every slab's front face, from top to bottom."""
    polygons = [patch.get_xy() for patch in ax.patches if isinstance(patch, Polygon)]
    assert len(polygons) % 3 == 0
    return np.array([np.ptp(corners[:4], axis=0) for corners in polygons[::3]])


def test_sides_follow_the_grid_and_thickness_the_channels():
    figure = multiscale_path({"flat": FLAT, "pyramid": PYRAMID})
    left, right = (fronts(ax) for ax in figure.axes)
    assert left[:, 0] == pytest.approx(np.full(2, right[0, 0] * 14 / 56))
    assert right[:, 0] / right[0, 0] == pytest.approx([1, 1, 1 / 2, 1 / 8])
    assert right[:, 1] / right[0, 1] == pytest.approx([1, 1, 2, 8])
    assert left[0, 1] == pytest.approx(right[3, 1])  # 64 channels in both


def test_slabs_stand_one_under_the_other_and_inside_their_panel():
    figure = multiscale_path({"flat": FLAT, "pyramid": PYRAMID})
    for ax, scales in zip(figure.axes, (FLAT, PYRAMID)):
        polygons = [patch.get_xy() for patch in ax.patches]
        slabs = [np.concatenate(polygons[i : i + 3]) for i in range(0, len(polygons), 3)]
        assert len(slabs) == len(scales)
        for above, below in itertools.pairwise(slabs):
            assert above[:, 1].min() > below[:, 1].max()
        everything = np.concatenate(slabs)
        assert ax.get_xlim()[0] <= everything[:, 0].min() <= everything[:, 0].max() <= ax.get_xlim()[1]
        assert everything[:, 1].min() > ax.get_ylim()[0]


def test_labels_say_name_blocks_and_sizes():
    figure = multiscale_path({"pyramid": PYRAMID})
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_title() == "pyramid"
    assert texts[0] == "cube1\n8 × 8 × 56 × 56"
    assert texts[1] == "scale2: 1 block\n8 × 8 × 56 × 56"
    assert texts[3] == "scale4: 3 blocks\n64 × 8 × 7 × 7"


@pytest.mark.parametrize(
    "networks",
    [
        {},
        {"empty": []},
        {"flat": [Scale("a", 0, (8, 7, 7))]},
        {"flat": [Scale("a", 8, (8, 0, 7))]},
        {"flat": [Scale("a", 8, (7, 7))]},
        {"flat": [Scale("a", 8, (8, 7, 7), -1)]},
    ],
)
def test_nonsense_is_refused(networks):
    with pytest.raises(ValueError, match="expected"):
        multiscale_path(networks)
