"""The shape-and-texture set: images drawn by code, in which shape and texture are two separate cues.

    (seed, index) -> shape, texture, place, size, turn, colours -> image (3, H, W), shape 0..7, texture 0..7

Eight shapes, each filled with one of eight textures, on a plain ground. `cues` says how the two go together:

    "agree"        texture k always fills shape k: either cue gives the label, as in most photographs
    "conflict"     never the shape's own texture: a net that learned on "agree" has to show which cue it follows
    "independent"  any texture in any shape: the texture says nothing

The idea of the conflict is Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, who make
such images by style transfer. Every number is drawn on the CPU from a generator seeded by (seed, index); item i is the
same on every machine up to the rounding of float32. Book: chapter 5, "The images", and chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minirsa.data.motion import mix_seeds

__all__ = ["CUES", "SHAPES", "TEXTURES", "ShapeBatch", "ShapeSet", "shape_bias"]

SHAPES = ("disc", "square", "triangle", "cross", "ring", "flower", "crescent", "bar")
TEXTURES = ("stripes", "checks", "dots", "waves", "rings", "marble", "bricks", "ramp")
CUES = ("agree", "conflict", "independent")
_DRAWS = 32  # uniforms an item is made of


class ShapeBatch(NamedTuple):
    """images (B, 3, H, W) float32 in [0, 1]; shapes, textures (B,) int64."""

    images: Tensor
    shapes: Tensor
    textures: Tensor


class ShapeSet:
    """`length` images; item i depends on (seed, i), the size and the cues, and its shape is i % 8.

    Args:
        size: height and width in pixels, from 16.
        cues: "agree", "conflict" or "independent".
        noise: standard deviation of the noise added to each pixel.
        device: where images are drawn.

    `set[i] -> (image (3, H, W), shape)`; `set.batch(indices) -> ShapeBatch`. Use different seeds for training and
    testing. Raises ValueError for options that do not fit, IndexError for an index outside the set.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        size: int = 32,
        cues: str = "agree",
        noise: float = 0.03,
        device: torch.device | str = "cpu",
    ):
        if length < 0 or seed < 0:
            raise ValueError(f"expected a length and a seed of at least 0, got {length} and {seed}")
        if size < 16:
            raise ValueError(f"expected a size of at least 16 pixels, got {size}")
        if cues not in CUES:
            raise ValueError(f"expected cues among {CUES}, got {cues!r}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"expected a noise from 0, got {noise}")
        self.length, self.seed, self.size, self.cues = length, seed, size, cues
        self.noise, self.device = noise, device

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        batch = self.batch([index])
        return batch.images[0], int(batch.shapes[0])

    def batch(self, indices: Sequence[int] | Tensor) -> ShapeBatch:
        """Some items, drawn together. Raises ValueError for no items at all."""
        places = [self._place(int(index)) for index in indices]
        if not places:
            raise ValueError("expected at least one index, got none")
        uniforms = torch.empty(len(places), _DRAWS)
        noise = torch.empty(len(places), 3, self.size, self.size)
        for row, place in enumerate(places):
            generator = torch.Generator().manual_seed(mix_seeds(self.seed, place))
            torch.rand(_DRAWS, generator=generator, out=uniforms[row])
            torch.randn(noise.shape[1:], generator=generator, out=noise[row])
        shapes = torch.tensor([place % len(SHAPES) for place in places])
        textures = self._textures(shapes, uniforms[:, 0])
        images = _render(shapes, textures, uniforms.to(self.device), self.size)
        images = (images + self.noise * noise.to(self.device)).clamp(0, 1)
        return ShapeBatch(images, shapes.to(self.device), textures.to(self.device))

    def _place(self, index: int) -> int:
        if not -self.length <= index < self.length:
            raise IndexError(f"expected an index below {self.length}, got {index}")
        return index % self.length

    def _textures(self, shapes: Tensor, uniform: Tensor) -> Tensor:
        count = len(TEXTURES)
        if self.cues == "agree":
            return shapes
        if self.cues == "independent":
            return (uniform * count).long().clamp(max=count - 1)
        return (shapes + 1 + (uniform * (count - 1)).long().clamp(max=count - 2)) % count


def shape_bias(predictions: Tensor, shapes: Tensor, textures: Tensor) -> float:
    """Share of the shape among the decisions for one of the two cues, on "conflict" images: (B,) three times -> [0, 1].

    1 is a net that goes by shape alone, 0 one that goes by texture alone; other decisions do not count. NaN when no
    decision follows either. Raises ValueError for shapes that differ or images without conflict. Source: Geirhos et
    al. 2019, section 2. Book: chapter 5.
    """
    if predictions.ndim != 1 or not predictions.shape == shapes.shape == textures.shape:
        raise ValueError(
            "expected predictions, shapes and textures (B,), "
            f"got {tuple(predictions.shape)}, {tuple(shapes.shape)} and {tuple(textures.shape)}"
        )
    if (shapes == textures).any():
        raise ValueError("expected images whose texture is never the shape's own: cues='conflict'")
    by_shape = (predictions == shapes).sum().item()
    by_texture = (predictions == textures).sum().item()
    return by_shape / (by_shape + by_texture) if by_shape + by_texture else math.nan


def _render(shapes: Tensor, textures: Tensor, uniforms: Tensor, size: int) -> Tensor:
    """(B,), (B,), (B, draws) -> images (B, 3, size, size) without noise."""
    draws = uniforms.T[:, :, None, None]  # (draws, B, 1, 1)
    line = (torch.arange(size, device=uniforms.device) + 0.5) / size * 2 - 1  # pixel centres in [-1, 1]
    y, x = line[None, :, None], line[None, None]
    radius = 0.6 + 0.25 * draws[1]
    room = 0.95 - radius
    y, x = (y - room * (2 * draws[2] - 1)) / radius, (x - room * (2 * draws[3] - 1)) / radius  # (B, size, size)
    v, u = _turn(y, x, 2 * math.pi * draws[4])
    outside = torch.stack([distance(v, u) for distance in _DISTANCES])  # (8, B, size, size), in radii
    outside = outside[shapes, torch.arange(len(shapes))]
    cover = (0.5 - outside * radius * size / 2).clamp(0, 1)  # a pixel wide edge
    t, s = _turn(y, x, 2 * math.pi * draws[5])
    frequency = 1.25 + 0.35 * draws[6]  # cycles a radius
    phases = 2 * math.pi * draws[7:15]
    pattern = torch.stack([fill(t * frequency, s * frequency, phases) for fill in _FILLS])
    pattern = pattern[textures, torch.arange(len(textures))][:, None]  # (B, 1, size, size)
    bright, dark, ground = (_color(uniforms[:, i : i + 3], low) for i, low in ((16, 0.65), (19, 0.0), (22, 0.35)))
    thing = dark + (bright - dark) * pattern
    ground = ground + 0.1 * (2 * uniforms[:, 25, None, None, None] - 1) * line[None, None, :, None]
    return ground + (thing - ground) * cover[:, None]


def _color(draws: Tensor, low: float) -> Tensor:
    """A colour with channels in [low, low + 0.3]: (B, 3) -> (B, 3, 1, 1)."""
    return (low + 0.3 * draws)[:, :, None, None]


def _turn(y: Tensor, x: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()


def _box(v: Tensor, u: Tensor, height: float, width: float) -> Tensor:
    return torch.maximum(v.abs() - height, u.abs() - width)


def _triangle(v: Tensor, u: Tensor) -> Tensor:
    angles = [math.pi / 2 + 2 * math.pi * k / 3 for k in range(3)]
    return torch.stack([math.sin(a) * v + math.cos(a) * u for a in angles]).amax(0) - 0.5


_DISTANCES = (  # below 0 inside, about in radii; in the order of SHAPES
    lambda v, u: torch.hypot(v, u) - 0.85,
    lambda v, u: _box(v, u, 0.72, 0.72),
    _triangle,
    lambda v, u: torch.minimum(_box(v, u, 0.28, 0.95), _box(v, u, 0.95, 0.28)),
    lambda v, u: (torch.hypot(v, u) - 0.66).abs() - 0.24,
    lambda v, u: torch.hypot(v, u) - 0.62 - 0.28 * torch.cos(5 * torch.atan2(v, u)),
    lambda v, u: torch.maximum(torch.hypot(v, u) - 0.92, 0.68 - torch.hypot(v, u - 0.45)),
    lambda v, u: _box(v, u, 0.3, 0.95),
)


def _sharp(wave: Tensor) -> Tensor:
    """A wave around 0 as a soft step from 0 to 1."""
    return 0.5 + 0.5 * torch.tanh(3 * wave)


def _marble(t: Tensor, s: Tensor, phases: Tensor) -> Tensor:
    """Three waves in directions of their own: an irregular grain."""
    wave = sum(
        torch.cos(2 * math.pi * 0.8 * (s * math.cos(k * 2.4) + t * math.sin(k * 2.4)) + phases[k]) for k in range(3)
    )
    return _sharp(0.5 * wave)


def _bricks(t: Tensor, s: Tensor, phases: Tensor) -> Tensor:
    """Rows shifted by half a brick, with dark joints."""
    row = t * 1.2 + phases[0]
    shifted = s * 0.8 + 0.5 * (row.floor() % 2)
    joint = torch.minimum((row % 1 - 0.5).abs(), (shifted % 1 - 0.5).abs() * 1.4)
    return _sharp(6 * (0.36 - (0.5 - joint)))


_FILLS = (  # in [0, 1], in the order of TEXTURES
    lambda t, s, p: _sharp(torch.sin(2 * math.pi * s + p[0])),
    lambda t, s, p: _sharp(2 * torch.sin(1.5 * math.pi * s + p[0]) * torch.sin(1.5 * math.pi * t + p[1])),
    lambda t, s, p: _sharp(torch.cos(2 * math.pi * s + p[0]) + torch.cos(2 * math.pi * t + p[1]) - 0.9),
    lambda t, s, p: _sharp(torch.sin(2 * math.pi * s + 2.2 * torch.sin(1.6 * math.pi * t + p[1]) + p[0])),
    lambda t, s, p: _sharp(torch.sin(2.4 * math.pi * torch.hypot(t, s) + p[0])),
    _marble,
    _bricks,
    lambda t, s, p: (0.5 + 0.45 * s).clamp(0, 1),
)
