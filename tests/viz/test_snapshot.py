"""The explorer's still picture: the right pixels of the right frames, the right kernel over them."""

import numpy as np

from minirsa.viz.snapshot import _overlay, _seen, _side_by_side


def test_seen_cuts_the_neighbourhood_out_of_the_frame_and_greys_what_is_outside():
    clip = np.arange(6 * 8, dtype=np.uint8).reshape(1, 6, 8, 1).repeat(3, axis=-1).repeat(2, axis=0)
    seen = _seen(clip, 1, (3, 4), (6, 8), (3, 3))[::33, ::33, 0]
    assert np.array_equal(np.round(seen[:3, :3] * 255), clip[1, 2:5, 3:6, 0])
    corner = _seen(clip, 0, (0, 0), (6, 8), (3, 3))
    assert np.allclose(corner[:33], 0.89)
    assert np.allclose(corner[:, :33], 0.89)
    assert corner[33, 33, 0] * 255 == clip[0, 0, 0, 0]
    assert np.allclose(_seen(clip, 2, (3, 4), (6, 8), (3, 3)), 0.89)


def test_overlay_colours_the_cells_of_the_middle_slice_and_no_others():
    frame = np.full((240, 240, 3), 128, np.uint8)
    kernel = np.zeros((3, 3, 3))
    kernel[1, 0, 2] = 1  # one up, one right
    kernel[1, 2, 1] = -1  # one down
    kernel[0] = kernel[2] = 1  # other times are not drawn
    changed = np.abs(_overlay(frame, kernel, (3, 3), (6, 6), (3, 3)) - 128 / 255).max(axis=-1) > 0.05
    cells = changed.reshape(6, 40, 6, 40).mean(axis=(1, 3))
    assert {(int(y), int(x)) for y, x in np.argwhere(cells == 1)} == {(2, 4), (4, 3)}
    assert cells.sum() == 2
    coloured = _overlay(frame, kernel, (3, 3), (6, 6), (3, 3))
    assert coloured[100, 180, 0] > coloured[100, 180, 2]  # positive: orange
    assert coloured[180, 140, 2] > coloured[180, 140, 0]  # negative: blue


def test_overlay_is_cut_off_at_the_edge():
    frame = np.full((240, 240, 3), 128, np.uint8)
    changed = np.abs(_overlay(frame, np.ones((1, 5, 5)), (0, 5), (6, 6), (5, 5)) - 128 / 255).max(axis=-1) > 0.05
    assert np.array_equal(np.argwhere(changed).min(axis=0), [0, 120])
    assert np.array_equal(np.argwhere(changed).max(axis=0), [119, 239])


def test_side_by_side_keeps_the_order_and_leaves_gaps():
    row = _side_by_side([np.full((2, 2, 3), v) for v in (0.1, 0.5)], gap=0.1)
    assert row.shape == (98, 2 * 98 + 10, 3)
    assert (row[50, 50, 0], row[50, 103, 0], row[50, 150, 0]) == (0.1, 1.0, 0.5)
