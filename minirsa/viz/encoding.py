"""Arrays and pictures as text that a page can carry: frames as data addresses, numbers as compressed bytes.

A field of kernels at every frame, row and column is large: 8 frames of 14 x 14 points with 5 x 7 x 7
kernels are 384 thousand numbers, for each kind of kernel and each direction of play. Two facts make it
small enough for a page:

    - a picture needs few levels: values become whole numbers from -n to n, n the colour scale's end; -
    kernels that a layer computes are combinations of few basis kernels (at most D of them where the layer
    has a
      latent dimension D; one for a convolution): field = coefficients @ basis, the basis being the leading
      eigenvectors of the field's Gram matrix.

Whichever of the two takes fewer bytes is kept, field by field; the same input gives the same bytes.

Attention weights are no combinations of few maps, and their largest value differs from query to query by
orders of magnitude: `pack_weights` stores each query's weights as whole numbers from 1 to n, n its own
largest weight, and keeps 0 for weights that are exactly zero: what was masked is not the same as what was
hardly looked at.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

PIXEL_ART = 96
"""Frames up to this many pixels wide are shown with hard pixel edges and stored without loss."""

LONGEST_SIDE = 320
"""Larger frames are reduced to this: a panel is about 340 pixels wide on the page."""


def data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def frame_uri(frame: np.ndarray) -> str:
    """A frame, uint8 `(H, W, 3)`, as a data address: PNG when small, else JPEG of at most `LONGEST_SIDE` pixels."""
    picture = Image.fromarray(frame)
    content = io.BytesIO()
    if picture.width <= PIXEL_ART:
        picture.save(content, "PNG", optimize=True)
        return data_uri(content.getvalue(), "image/png")
    ratio = LONGEST_SIDE / max(picture.size)
    if ratio < 1:
        picture = picture.resize([max(1, round(side * ratio)) for side in picture.size], Image.Resampling.BOX)
    picture.save(content, "JPEG", quality=80, optimize=True)
    return data_uri(content.getvalue(), "image/jpeg")


def few_colors(png: bytes) -> bytes:
    """A PNG with at most 256 colours: a third of the bytes, at no loss that an eye finds in a small figure."""
    content = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(content, "PNG", optimize=True)
    return content.getvalue()


def color_scale(values: np.ndarray) -> float:
    """The magnitude that takes full colour: the 99.5th percentile of |value|, so that no outlier blanks the rest.

    At least a tenth of the largest magnitude (softmax kernels are nearly all zero), and 1 for a field of
    zeros.
    """
    magnitude = np.abs(values)
    return float(max(np.quantile(magnitude, 0.995), magnitude.max() / 10)) or 1.0


@dataclass(frozen=True)
class Packed:
    """Fields as the page's script reads them (`kernelAt` in assets/figure.js, `weightsAt` in assets/weights.js)."""

    fields: list[dict[str, Any]]
    content: bytes


def _components(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (positions, K) and orthonormal basis (K, K) of `matrix` (positions, K), strongest first.

    By the eigenvectors of the K x K Gram matrix: positions are many and K is a few hundred.
    """
    matrix = matrix.astype(np.float64)
    _, vectors = np.linalg.eigh(matrix.T @ matrix)
    basis = vectors[:, ::-1].T
    return matrix @ basis.T, basis


def _rank(coefficients: np.ndarray, tolerance: float) -> int:
    """The fewest components that leave no kernel a root mean square error above `tolerance`."""
    lost = np.cumsum(coefficients[:, ::-1] ** 2, axis=1).max(axis=0)  # the last, the last two, ...
    return max(1, len(lost) - int(np.searchsorted(np.sqrt(lost / coefficients.shape[1]), tolerance, "right")))


def _int8(values: np.ndarray, scale: np.ndarray | float, levels: int) -> np.ndarray:
    return np.round(np.clip(values / scale, -1, 1) * levels).astype(np.int8)


def _entropy(values: np.ndarray) -> float:
    """Bytes that an ideal code of single values would take: close to what deflate reaches here, and quick."""
    share = np.bincount(values.ravel().view(np.uint8), minlength=256) / values.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum() * values.size / 8)


def _pack(prepared: dict[str, tuple], levels: int, tolerance: float) -> Packed:
    described, parts, offset = [], [], 0
    for name, (scale, matrix, coefficients, basis) in prepared.items():
        direct = _int8(matrix, 1.0, levels)
        body, rank, weights = direct.T.tobytes(), _rank(coefficients, tolerance), []
        if rank * sum(matrix.shape) < _entropy(direct):
            kept, used = coefficients[:, :rank], basis[:rank]
            each = np.maximum(np.abs(kept).max(axis=0), 1e-12)
            other = np.abs(used).max(axis=1, keepdims=True)
            body = _int8(kept, each, 127).T.tobytes() + _int8(used, other, 127).tobytes()
            weights = [float(f"{w:.6g}") for w in each * other[:, 0] / 127**2]
        else:
            rank = 0
        described.append(
            {
                "name": name,
                "scale": float(f"{scale:.6g}"),
                "levels": levels,
                "rank": rank,
                "weights": weights,
                "offset": offset,
            }
        )
        parts.append(body)
        offset += len(body)
    return Packed(described, zlib.compress(b"".join(parts), 6))


def pack_fields(fields: dict[str, np.ndarray], budget: int = 300_000) -> Packed:
    """Pack fields `(positions..., kT, kH, kW)` by name; coarser levels when they exceed `budget` bytes."""
    prepared = {}
    for name, field in fields.items():
        scale = color_scale(field)
        matrix = field.reshape(-1, int(np.prod(field.shape[-3:]))) / scale
        prepared[name] = (scale, matrix, *_components(matrix))
    for levels, tolerance in ((60, 0.01), (30, 0.02), (15, 0.04), (7, 0.08)):
        packed = _pack(prepared, levels, tolerance)
        if len(packed.content) <= budget:
            break
    return packed


def unpack_field(packed: Packed, index: int, kernel: tuple[int, int, int]) -> np.ndarray:
    """What the page shows of field `index`: `(positions, kT, kH, kW)`, beyond the colour scale cut off.

    The page's script does the same in JavaScript; here for tests.
    """
    field, size = packed.fields[index], int(np.prod(kernel))
    content = np.frombuffer(zlib.decompress(packed.content), np.int8)
    end = packed.fields[index + 1]["offset"] if index + 1 < len(packed.fields) else len(content)
    own = content[field["offset"] : end].astype(np.float64)
    if field["rank"] == 0:
        matrix = own.reshape(size, -1).T / field["levels"]
    else:
        basis = own[-field["rank"] * size :].reshape(field["rank"], size)
        coefficients = own[: -field["rank"] * size].reshape(field["rank"], -1).T
        matrix = (coefficients * field["weights"]) @ basis
    return matrix.reshape(-1, *kernel).clip(-1, 1) * field["scale"]


def spread(weights: np.ndarray) -> np.ndarray:
    """Over how many places weights are spread: exp of the entropy of each row, scaled to sum to one.

    `weights` (queries, places), >= 0. Returns (queries,): 1 where one place has all, `places` where all are
    equal, 0 for a row of zeros.
    """
    total = weights.sum(axis=1, keepdims=True, dtype=np.float64)
    share = weights / np.where(total > 0, total, 1)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(total[:, 0] > 0, np.exp(-(share * logs).sum(axis=1)), 0)


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def pack_weights(weights: dict[str, np.ndarray], budget: int = 400_000) -> Packed:
    """Pack weights (queries, places) >= 0 by name; coarser levels when they exceed `budget` bytes."""
    for levels in (120, 60, 30, 15):
        described, parts, offset = [], [], 0
        for name, each in weights.items():
            largest = each.max(axis=1)
            share = each / np.where(largest > 0, largest, 1)[:, None]
            body = np.where(each > 0, 1 + np.round(share * (levels - 1)), 0).astype(np.int8).tobytes()
            described.append(
                {
                    "name": name,
                    "levels": levels,
                    "offset": offset,
                    "largest": _short(largest),
                    "spread": _short(spread(each)),
                }
            )
            parts.append(body)
            offset += len(body)
        packed = Packed(described, zlib.compress(b"".join(parts), 9))
        if len(packed.content) <= budget:
            break
    return packed


def unpack_weights(packed: Packed, index: int) -> np.ndarray:
    """What the page shows of the weights number `index`: (queries, places). For tests, as `unpack_field`."""
    field = packed.fields[index]
    content = np.frombuffer(zlib.decompress(packed.content), np.int8)
    end = packed.fields[index + 1]["offset"] if index + 1 < len(packed.fields) else len(content)
    levels = content[field["offset"] : end].reshape(len(field["largest"]), -1).astype(np.float64)
    return np.maximum(levels - 1, 0) / (field["levels"] - 1) * np.array(field["largest"])[:, None]
