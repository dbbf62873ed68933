"""Diagrams of ViViT follow the model: another depth, width or variant is another outline and another picture."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from minirsa import viz
from minirsa.models.vivit import VARIANTS, ViViT
from minirsa.viz.blocks import KINDS, Look, block_diagrams, outline

SMALL = {"num_classes": 7, "num_frames": 6, "image_size": 32, "tubelet": (2, 8, 8)}
SMALL |= {"width": 24, "depth": 3, "heads": 4, "hidden": 40, "temporal_depth": 2}
CLIP = torch.zeros(1, 3, 6, 32, 32)


@pytest.fixture(autouse=True)
def _agg():
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        viz.use_style()
        yield
    plt.close("all")


def small(variant=1, **options):
    return ViViT(variant=variant, **{**SMALL, **options}).eval()


def kinds(drawn):
    return [(stack.times, [box.kind for box in stack.boxes]) for stack in drawn.stacks]


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts if text.get_text()]


LAYER = ["norm", "attention", "norm", "MLP"]
EXPECTED = {
    1: [(1, ["tubelets"]), (3, LAYER), (1, ["norm"]), (1, ["head"])],
    2: [(1, ["tubelets"]), (3, LAYER), (1, ["norm"]), (2, LAYER), (1, ["norm"]), (1, ["head"])],
    3: [(1, ["tubelets"]), (3, ["norm", "attention", *LAYER]), (1, ["norm"]), (1, ["head"])],
    4: [(1, ["tubelets"]), (3, LAYER), (1, ["norm"]), (1, ["head"])],
}
LOOKS = {
    1: [Look("all", 4, 1, 49)],
    2: [Look("space", 4, 3, 17), Look("time", 4, 1, 4)],
    3: [Look("space", 4, 3, 16), Look("time", 4, 16, 3)],
    4: [Look("space", 2, 3, 16), Look("time", 2, 16, 3)],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_runs_is_in_the_outline_in_order(variant):
    drawn = outline(small(variant), CLIP)
    assert kinds(drawn) == EXPECTED[variant]
    assert (drawn.clip, drawn.output) == ((3, 6, 32, 32), (7,))
    assert list(dict.fromkeys(drawn.looks)) == LOOKS[variant]
    assert len(drawn.looks) == {1: 3, 2: 5, 3: 6, 4: 6}[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_looks_count_the_weights_that_the_model_returns(variant):
    model = small(variant)
    _, kept = model(CLIP, return_weights=True)
    assert sum(look.weights for look in outline(model, CLIP).looks) == sum(w.numel() for k in kept for w in k.values())


def test_a_changed_model_changes_its_outline_and_its_picture():
    changes = [{"depth": 4}, {"width": 32}, {"heads": 2}, {"hidden": 48}, {"tubelet": (3, 8, 8)}, {"num_classes": 5}]
    changes += [{"variant": variant} for variant in (1, 3, 4)] + [{"variant": 2, "temporal_depth": 3}]
    first = outline(small(2), CLIP)
    for change in changes:
        other = outline(small(**{"variant": 2, **change}), CLIP)
        assert other != first, change
        assert texts(block_diagrams({"": other})) != texts(block_diagrams({"": first})), change


def test_another_clip_changes_the_shapes():
    model = small(3)
    longer = outline(model, torch.zeros(1, 3, 8, 32, 40))
    assert longer.clip == (3, 8, 32, 40)
    assert longer.looks[:2] == [Look("space", 4, 4, 20), Look("time", 4, 20, 4)]


def test_models_without_memory_will_do_and_hooks_are_removed():
    with torch.device("meta"):
        model, clip = small(2), torch.empty(1, 3, 6, 32, 32)
    assert outline(model, clip) == outline(small(2), CLIP)
    assert not any(module._forward_hooks for module in model.modules())


def test_every_box_is_drawn_once_and_texts_stay_inside():
    outlines = {f"Model {variant}": outline(small(variant), CLIP) for variant in VARIANTS}
    figure = block_diagrams(outlines)
    words = texts(figure)
    assert words.count("norm") == 3 + 6 + 4 + 3
    assert words.count("MLP 24 → 40 → 24") == 1 + 2 + 1 + 1
    assert words.count("3 ×") == 4
    assert {"2 ×", "Model 3", "2 heads in time\n16 × (3 × 3)", "linear 24 → 7", "3 × 17 × 24"} <= set(words)
    assert "4 × 24" in words  # late fusion: three frames and a token
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [text.get_window_extent() for ax in figure.axes for text in ax.texts if text.get_text()]
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_a_layer_that_differs_is_not_counted_with_the_others():
    drawn = outline(small(1), CLIP)
    model = small(1)
    model.layers[1].feed_forward = type(model.layers[1].feed_forward)(24, 16, activation="gelu")
    assert [times for times, _ in kinds(outline(model, CLIP))] == [1, 1, 1, 1, 1, 1]
    assert drawn != replace(drawn, output=(8,))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="one clip"):
        outline(small(), torch.zeros(2, 3, 6, 32, 32))
    stranger = small()
    stranger.layers[0].feed_forward_norm = nn.GroupNorm(7, 49)
    with pytest.raises(ValueError, match=r"layers.0.feed_forward_norm \(GroupNorm\)"):
        outline(stranger, CLIP)
    assert not any(module._forward_hooks for module in stranger.modules())
    with pytest.raises(ValueError, match="columns"):
        block_diagrams({"": outline(small(), CLIP)}, columns=0)
    with pytest.raises(ValueError, match="0"):
        block_diagrams({})
    assert "GroupNorm" not in KINDS
