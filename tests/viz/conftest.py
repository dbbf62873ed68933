"""Small scenes for the interactive figures: a bright square moves down over a texture, with made-up kernels and
attention weights; two sentences with made-up alignments."""

import numpy as np
import pytest

from minirsa.viz import AlignmentExample


def small_scene(frames=6, height=24, width=32, grid=(6, 8), kernel=(3, 5, 3)):
    """A clip, its fields, the reversed clip and its fields, as KernelExplorer takes them.

    "basic" is a combination of two patterns, so it is stored as coefficients and a basis; "relational" is random,
    so it is stored value by value; "attention" is not negative.
    """
    rng = np.random.default_rng(7)
    clip = rng.integers(0, 120, (1, height, width, 3), dtype=np.uint8).repeat(frames, axis=0)
    for t in range(frames):
        top = t * (height - 8) // (frames - 1)
        clip[t, top : top + 8, 12:20] = (250, 200, 60)
    shape = (frames, *grid)

    def fields():
        return {
            "attention": rng.dirichlet(np.ones(np.prod(kernel)), shape).reshape(*shape, *kernel),
            "basic": np.tensordot(rng.normal(size=(*shape, 2)), rng.normal(size=(2, *kernel)), 1),
            "relational": rng.normal(size=(*shape, *kernel)),
        }

    return clip, fields(), clip[::-1].copy(), fields()


@pytest.fixture(scope="session")
def scene():
    return small_scene()


def small_attention(frames=3, height=24, width=32, grid=(3, 4)):
    """A clip and weights, as AttentionExplorer takes them.

    "sharp" and "even" are what a softmax makes of the same scores; "space" looks at the query's own frame only.
    """
    clip = small_scene(frames if frames > 1 else 2, height, width)[0][:frames]
    rng = np.random.default_rng(8)
    places = frames * grid[0] * grid[1]
    scores = rng.normal(size=(places, places))

    def softmax(values):
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return (values / values.sum(axis=1, keepdims=True)).reshape(frames, *grid, frames, *grid)

    time = np.arange(places) // (grid[0] * grid[1])
    masked = np.where(time[:, None] == time, scores, -np.inf)
    return clip, {"sharp": softmax(3 * scores), "even": softmax(scores / 9), "space": softmax(masked)}


KOREAN = ["이", "천", "사", "년", "삼", "월"]
ROMAN = ["i", "cheon", "sa", "nyeon", "sam", "wol"]


def small_alignments():
    """Three examples for AlignmentMap: Hangul with a gloss, English with blanks in the output, and a long one."""
    rng = np.random.default_rng(9)

    def weights(target, source):
        return rng.dirichlet(np.full(source, 0.3), target)

    english = ["march", "two", "thousand", "and", "four", ",", "may", "ten"]
    number = list("2004-03")
    return [
        AlignmentExample(KOREAN, number, weights(len(number), len(KOREAN)), "Korean", gloss=ROMAN),
        AlignmentExample(english, list("2004-03 10"), weights(10, len(english)), "English"),
        AlignmentExample(english * 6, list("04 10"), weights(5, 48), "Long"),
    ]


@pytest.fixture(scope="session")
def attention_scene():
    return small_attention()


@pytest.fixture(scope="session")
def examples():
    return small_alignments()


def controls_of(widget):
    """The parts of a widget by their description, or by type where they have none."""
    found, todo = {}, [widget]
    while todo:
        each = todo.pop()
        todo.extend(getattr(each, "children", ()))
        found[getattr(each, "description", "") or type(each).__name__] = each
    return found


@pytest.fixture(scope="session")
def controls():
    return controls_of
