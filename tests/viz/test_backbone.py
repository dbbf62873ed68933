"""The backbone's picture: a box for every bottleneck, the special ones filled, one opened with its own channels."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch

from minirsa import viz
from minirsa.viz.backbone import PLAIN, Stage, backbone

STAGES = [
    Stage("one", 4, 16, (8, 12, 20), (PLAIN, "RSA")),
    Stage("two", 8, 32, (8, 6, 10), (PLAIN, "RSA", PLAIN)),
]


@pytest.fixture(autouse=True)
def _agg():
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        viz.use_style()
        yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def filled(figure):
    orange = to_rgba(viz.PALETTE["relational"])
    return [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch) and p.get_facecolor() == orange]


def test_every_bottleneck_has_a_box_with_what_stands_in_it():
    figure = backbone(STAGES, opened=(1, 0))
    drawn = texts(figure)
    row = [text for text in drawn if text in (PLAIN, "RSA")]
    assert row == [PLAIN, "RSA", PLAIN, "RSA", PLAIN, PLAIN]  # the last one is the opened bottleneck's
    assert len(filled(figure)) == 2
    assert drawn[0] == "stem"
    assert {"one", "16 ch.", "8×12×20", "two", "32 ch.", "8×6×10", "head", "1×1 reduce", "shortcut"} <= set(drawn)


@pytest.mark.parametrize(
    ("opened", "channels", "orange"),
    [
        ((0, 0), ["4", "4", "4", "16"], 2),  # a stem gives as many channels as the first bottleneck is wide
        ((0, 1), ["16", "4", "4", "16"], 3),
        ((1, 0), ["16", "8", "8", "32"], 2),
        ((1, 2), ["32", "8", "8", "32"], 2),
    ],
)
def test_the_opened_bottleneck_shows_its_own_channels_and_transform(opened, channels, orange):
    figure = backbone(STAGES, opened=opened)
    assert [text for text in texts(figure) if text.isdigit()] == channels
    assert len(filled(figure)) == orange


def test_boxes_follow_one_another_and_stay_inside():
    stages = [Stage(f"res{n}", 64, 256, (8, 56, 56), (PLAIN,) * depth) for n, depth in enumerate((3, 4, 6, 3), 2)]
    figure = backbone(stages, opened=(0, 2), ends=("first", "last"))
    axes = figure.axes[0]
    figure.canvas.draw()
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()
    row = [t.get_position()[0] for t in axes.texts if t.get_text() == PLAIN][:16]
    assert row == sorted(set(row))
    assert len(row) == 16
    assert {"first", "last"} <= set(texts(figure))
    assert figure.get_size_inches()[0] == pytest.approx(viz.PAGE_WIDTH)


@pytest.mark.parametrize("stages", [[], [Stage("empty", 4, 16, (8, 2, 2), ())]])
def test_a_net_without_bottlenecks_is_refused(stages):
    with pytest.raises(ValueError, match="expected stages with bottlenecks"):
        backbone(stages, opened=(0, 0))


@pytest.mark.parametrize("opened", [(2, 0), (0, 2), (-1, 0), (0, -1)])
def test_a_bottleneck_that_does_not_exist_is_refused(opened):
    with pytest.raises(ValueError, match=r"a bottleneck of \[2, 3\] to open"):
        backbone(STAGES, opened=opened)
