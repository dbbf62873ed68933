"""The encoder-decoder diagram: every part is drawn, norms and the memory stand where they belong."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from minirsa import viz

ENCODER = [("self-attention", "4 heads"), ("feed-forward", "32")]
DECODER = [("causal self-attention", "2 heads"), ("attention to the source", "2 heads"), ("feed-forward", "64")]
ENDS = ("source", "target", "logits")


@pytest.fixture(autouse=True)
def _agg():
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        viz.use_style()
        yield
    plt.close("all")


def draw(norm="post", **options):
    settings = {"depths": (2, 3), "ends": ENDS, "norm": norm} | options
    return viz.encoder_decoder(ENCODER, DECODER, **settings).axes[0]


def places(axes, name):
    """Where a text stands, from the bottom up, in the left and the right stack."""
    found = sorted(text.get_position()[::-1] for text in axes.texts if text.get_text() == name)
    return [y for y, x in found if x < 4.6], [y for y, x in found if x > 4.6]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_every_part_is_drawn_once_in_order(norm):
    axes = draw(norm)
    for parts, side in ((ENCODER, 0), (DECODER, 1)):
        heights = [places(axes, name)[side] for name, _ in parts]
        assert all(len(found) == 1 for found in heights)
        assert heights == sorted(heights)
        assert len(places(axes, "+")[side]) == len(parts)
    texts = [text.get_text() for text in axes.texts]
    assert {*ENDS, "2 ×", "3 ×", "4 heads", "32", "64"} <= set(texts)
    assert texts.count("2 heads") == 2


def test_norms_stand_after_the_sums_or_before_the_sublayers():
    for side, parts in ((0, ENCODER), (1, DECODER)):
        post, pre = (draw(norm) for norm in ("post", "pre"))
        assert len(places(post, "norm")[side]) == len(parts)
        assert len(places(pre, "norm")[side]) == len(parts) + 1, "pre-LN ends with one more"
        for number, (name, _) in enumerate(parts):
            assert places(post, "norm")[side][number] > places(post, "+")[side][number]
            assert places(pre, "norm")[side][number] < places(pre, name)[side][0] < places(pre, "+")[side][number]
        assert places(pre, "norm")[side][-1] > places(pre, "+")[side][-1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_memory_enters_the_sublayer_that_was_named(place):
    axes = draw(memory_into=place)
    (line,) = [line for line in axes.lines if line.get_color() == viz.PALETTE["attention"]]
    end = np.array(line.get_xydata())[-1]
    y = places(axes, DECODER[place][0])[1][0]
    assert abs(end[1] - y) < 0.2, "the line ends at the height of the sublayer"


def test_texts_stay_inside_and_do_not_collide():
    for norm in ("post", "pre"):
        axes = draw(norm)
        figure = axes.figure
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        width, height = figure.canvas.get_width_height()
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_impossible_diagrams_are_refused():
    with pytest.raises(ValueError, match="norm"):
        draw("both")
    with pytest.raises(ValueError, match="memory_into"):
        draw(memory_into=3)
    with pytest.raises(ValueError, match="both stacks"):
        viz.encoder_decoder([], DECODER, depths=(1, 1), ends=ENDS)
