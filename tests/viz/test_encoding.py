"""What the page stores is what was given, within the precision that the module promises."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from minirsa.viz.encoding import (
    color_scale,
    few_colors,
    frame_uri,
    pack_fields,
    pack_weights,
    spread,
    unpack_field,
    unpack_weights,
)


def picture_of(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_small_frame_survives_exactly_and_a_large_one_closely():
    small = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(picture_of(frame_uri(small)), small)
    y, x = np.mgrid[:480, :640] / 640
    large = (np.stack([x, y, x * y], axis=-1) * 255).astype(np.uint8)
    stored = picture_of(frame_uri(large))
    assert stored.shape == (240, 320, 3)
    assert np.abs(stored - large[::2, ::2].astype(float)).mean() < 4


def test_color_scale_ignores_an_outlier_but_not_a_sparse_field():
    values = np.random.default_rng(0).uniform(-1, 1, 10_000)
    values[0] = 8
    assert color_scale(values) == pytest.approx(1, abs=0.02)
    assert color_scale(np.eye(1, 10_000)) == pytest.approx(0.1)
    assert color_scale(np.zeros(5)) == 1


@pytest.mark.parametrize("kind", ["full", "low rank", "constant", "softmax", "zero"])
def test_packed_kernels_come_back(kind):
    rng = np.random.default_rng(1)
    positions, kernel = (2, 8, 7, 7), (5, 3, 3)
    field = {
        "full": lambda: rng.normal(size=(*positions, *kernel)),
        "low rank": lambda: np.tensordot(rng.normal(size=(*positions, 3)), rng.normal(size=(3, *kernel)), 1),
        "constant": lambda: np.broadcast_to(rng.normal(size=kernel), (*positions, *kernel)),
        "softmax": lambda: rng.dirichlet(np.full(45, 0.2), positions).reshape(*positions, *kernel),
        "zero": lambda: np.zeros((*positions, *kernel)),
    }[kind]()
    packed = pack_fields({"other": rng.normal(size=(*positions, *kernel)), "field": field})
    shown = unpack_field(packed, 1, kernel)
    scale = packed.fields[1]["scale"]
    error = shown - field.reshape(-1, *kernel).clip(-scale, scale)
    assert np.abs(error).max() <= (0.05 if packed.fields[1]["rank"] else 0.51 / 60) * scale
    assert {"full": 0, "low rank": 3, "constant": 1}.get(kind, packed.fields[1]["rank"]) == packed.fields[1]["rank"]


def test_a_large_field_is_stored_coarsely_rather_than_beyond_the_budget():
    field = {"field": np.random.default_rng(2).normal(size=(1, 8, 8, 8, 5, 7, 7))}
    fine, coarse = pack_fields(field), pack_fields(field, budget=70_000)
    assert fine.fields[0]["levels"] == 60
    assert len(coarse.content) <= 70_000 < len(fine.content)
    shown = unpack_field(coarse, 0, (5, 7, 7))
    scale = coarse.fields[0]["scale"]
    assert np.abs(shown - field["field"].reshape(-1, 5, 7, 7).clip(-scale, scale)).max() <= 0.51 / 7 * scale


def test_few_colors_keeps_the_picture():
    y, x = np.mgrid[:64, :64]
    picture = Image.fromarray(np.stack([x * 4, y * 4, x + y], axis=-1).astype(np.uint8))
    content = io.BytesIO()
    picture.save(content, "PNG")
    reduced = np.asarray(Image.open(io.BytesIO(few_colors(content.getvalue()))).convert("RGB"))
    assert np.abs(reduced.astype(float) - np.asarray(picture)).mean() < 8


def some_weights(queries=6, places=40):
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.full(places, 0.2), queries)
    weights[:, ::7] = 0
    weights[-1] = 0
    return weights


def test_packed_weights_come_back_on_each_query_s_own_scale():
    rng = np.random.default_rng(4)
    weights = some_weights() * 10.0 ** -np.arange(6)[:, None]  # from a single place with all to next to nothing
    packed = pack_weights({"other": rng.random((5, 40)), "weights": weights})
    shown = unpack_weights(packed, 1)
    largest = weights.max(axis=1, keepdims=True)
    assert packed.fields[1]["levels"] == 120
    assert (np.abs(shown - weights) <= largest * 0.51 / 119 + 1e-12).all()


def test_a_weight_of_zero_keeps_a_level_of_its_own():
    weights = np.array([[0.0, 1e-9, 0.5, 1.0], [0, 0, 0, 0]])
    content = np.frombuffer(zlib.decompress(pack_weights({"weights": weights}).content), np.int8)
    assert content.tolist() == [0, 1, 61, 120, 0, 0, 0, 0]


def test_many_weights_are_stored_coarsely_rather_than_beyond_the_budget():
    weights = {"weights": np.random.default_rng(5).random((200, 200))}
    fine, coarse = pack_weights(weights), pack_weights(weights, budget=28_000)
    assert (fine.fields[0]["levels"], coarse.fields[0]["levels"]) == (120, 30)
    assert len(coarse.content) <= 28_000 < len(fine.content)
    assert np.abs(unpack_weights(coarse, 0) - weights["weights"]).max() <= 0.51 / 29


def test_spread_counts_the_places_that_share_the_weight():
    weights = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [3, 3, 3, 3], [0, 0, 0, 0], [0.9, 0.1, 0, 0]])
    even = np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))
    assert spread(weights) == pytest.approx([1, 2, 4, 0, even])
