"""A small scene for the interactive figures: a bright square moves down over a texture, with made-up kernels."""

import numpy as np
import pytest


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
