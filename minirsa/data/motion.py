"""The synthetic motion set: clips drawn by code, whose labels only the order of the frames can tell.

Twelve classes in six pairs, named like Something-Something's. Class ``2k + 1`` is class ``2k`` played
backwards, exactly: a scene is drawn without looking at which of the two it will be, rendered, and the frames
of the odd class are turned round::

    (seed, index) -> uniforms -> scene of pair k -> clip (3, T, H, W) -+- label 2k:     clip
                                                                       +- label 2k + 1: clip, last frame first

So the *set* of a clip's frames has one distribution for both members of a pair, borders, occlusions, sizes
and noise included: a model that looks at frames one by one, or in random order, is at chance within every
pair, whatever its size. A frame whose place in time is known is another matter: what starts high up will come
down, and the first frame of "covering something" shows two things. First frames alone are right within pairs
nine times in ten; it is the same with real events.

A scene lives in continuous coordinates, not in pixels: y runs down from -1 to 1, x to the right from
-width/height to width/height, time from 0 to 1, frame j of T showing time (j + 1/2) / T. The same item can
therefore be rendered at any size and frame rate: 8 of 56 frames taken by test-time segment sampling show the
times that an 8-frame rendering shows. Edges and textures are filtered by a pixel's width, so that a large
rendering shrunk by area averaging looks like a small rendering.

Every random number is drawn on the CPU by ``torch.rand`` from a generator seeded by (seed, index); only the
rendering runs on ``device``. Item i is the same on every machine up to the rounding of float32 arithmetic. For large
clips drawing the noise takes longer than a GPU takes to render; a set with ``hashed_noise`` makes it on the device.

Book: chapter 7, "The motion set".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minirsa.data.noise import hashed_noise as hashed

__all__ = ["APPEARANCES", "LABELS", "MotionConfig", "MotionSet", "reverse", "reverse_label"]

LABELS = (
    "moving something down",
    "moving something up",
    "moving something from left to right",
    "moving something from right to left",
    "moving something towards the camera",
    "moving something away from the camera",
    "turning something clockwise",
    "turning something counterclockwise",
    "moving two things closer to each other",
    "moving two things away from each other",
    "covering something with something",
    "uncovering something",
)

APPEARANCES = ("same", "fine", "finer", "low_contrast", "grey", "flicker")

_WAVES = 5  # cosine waves in a texture
_FREQUENCIES = {"fine": (2.0, 4.0), "finer": (4.0, 6.5)}  # cycles per unit; the frame is 2 units high


# A thing that travels: how much of its radius stays inside the frame, its largest radius, and how far from its
# line it drifts to either end. The narrowest frame, as width / height, is where the largest thing's room to go
# across, 2 (width / height - INSIDE LARGEST), is as long as its greatest drift, 2 DRIFT. In a narrower one "from
# left to right" could be mostly up or down; below INSIDE LARGEST the room is negative and the way leads back.
INSIDE, LARGEST, DRIFT = 0.8, 0.42, 0.12
NARROWEST = INSIDE * LARGEST + DRIFT


def reverse_label(label: int) -> int:
    """The other label of a pair: what ``reverse(clip)`` shows when ``clip`` shows ``label``."""
    if not 0 <= label < len(LABELS):
        raise ValueError(f"expected a label from 0 to {len(LABELS) - 1}, got {label}")
    return label ^ 1


def reverse(clip: torch.Tensor) -> torch.Tensor:
    """Turn time round: ``(..., C, T, H, W) -> (..., C, T, H, W)``, last frame first."""
    if clip.dim() < 4:
        raise ValueError(f"expected a clip (..., C, T, H, W), got shape {tuple(clip.shape)}")
    return clip.flip(-3)


@dataclass(frozen=True)
class MotionConfig:
    """What the clips look like and how hard they are.

    height, width, frames: size of a rendered clip, in pixels and frames. Width at least 0.456 of the height: in
        a narrower frame things could not go further across than they drift aside.
    speed: how far things move, as a multiple of the default; the frame bounds it above.
    distractors: small things that cross the scene in directions that have nothing to do with the label.
    camouflage: things carry the background's own colours and waves, so that a still frame hardly shows them.
    noise: standard deviation of independent noise on every value of every frame (values lie in [0, 1]).
    frequencies: range of the textures' spatial frequencies, in cycles per unit (the frame is 2 units high).
    contrast: how strong the textures are, as a multiple of the default.
    appearance: one of ``APPEARANCES``; a shift to test a trained model on. "fine" and "finer" replace the
        frequencies by 2-4 and 4-6.5, "low_contrast" keeps 0.3 of every value's distance from mid-grey, "grey"
        removes colour, "flicker" lets the brightness of whole frames oscillate by half.

    Raises ValueError for a value that cannot be rendered.
    """

    height: int = 32
    width: int = 32
    frames: int = 8
    speed: float = 1.0
    distractors: int = 0
    camouflage: bool = False
    noise: float = 0.02
    frequencies: tuple[float, float] = (0.6, 2.0)
    contrast: float = 1.0
    appearance: str = "same"

    def __post_init__(self):
        if min(self.height, self.width, self.frames) < 1:
            size = (self.height, self.width, self.frames)
            raise ValueError(f"expected height, width and frames of at least 1, got {size}")
        if self.width < NARROWEST * self.height:
            raise ValueError(
                f"expected a width of at least {NARROWEST:.3f} of the height, so that things have room to move "
                f"sideways, got {self.width} x {self.height} (width x height)"
            )
        if not 0 < self.speed < math.inf:
            raise ValueError(f"expected a finite speed above 0, got {self.speed}")
        if not all(0 <= value < math.inf for value in (self.distractors, self.noise, self.contrast)):
            raise ValueError(
                "expected finite distractors, noise and contrast of at least 0, "
                f"got {self.distractors}, {self.noise}, {self.contrast}"
            )
        if len(self.frequencies) != 2 or not 0 < self.frequencies[0] <= self.frequencies[1] < math.inf:
            raise ValueError(f"expected finite frequencies (low, high) with 0 < low <= high, got {self.frequencies}")
        if self.appearance not in APPEARANCES:
            raise ValueError(f"expected an appearance out of {APPEARANCES}, got {self.appearance!r}")


class MotionSet:
    """``length`` clips with labels; item i depends on ``(seed, i)`` and ``config`` alone.

    The label of item i is ``i % 12``, so every set is balanced. Use different seeds for training and testing.
    ``set[i] -> (float32 (3, T, H, W) in [0, 1], int label)``; ``set.batch(indices)`` renders many at once.
    Works as a map-style dataset of ``torch.utils.data``. ``hashed_noise`` takes the noise from
    `minirsa.data.noise`, made on ``device``: other noise, the same scenes, and nothing large is drawn on the CPU.

    Raises ValueError for a negative length or seed, IndexError for an index outside the set.
    """

    def __init__(
        self,
        length: int,
        config: MotionConfig | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        hashed_noise: bool = False,
    ):
        if length < 0 or seed < 0:
            raise ValueError(f"expected a length and a seed of at least 0, got {length} and {seed}")
        self.length = length
        self.config = MotionConfig() if config is None else config
        self.seed = seed
        self.device = torch.device(device)
        self.hashed_noise = hashed_noise

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clips, labels = self.batch([index])
        return clips[0], int(labels[0])

    def label(self, index: int) -> int:
        """The label of item ``index``, without drawing it."""
        return self._position(index) % len(LABELS)

    def batch(
        self,
        indices: Sequence[int] | torch.Tensor,
        *,
        labels: Sequence[int] | torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips and labels of some items: ``(B,) -> float32 (B, 3, T, H, W) in [0, 1], int64 (B,)``.

        ``labels`` draws the items with other labels than their own. With the other label of its pair an item
        is its own clip played backwards: the identity that makes frames without order useless. ``dtype`` is the
        precision of the rendering: float64 where files are to come out the same on every machine.
        """
        positions = [self._position(int(i)) for i in indices]
        if labels is None:
            labels = [p % len(LABELS) for p in positions]
        labels = torch.as_tensor(labels, dtype=torch.int64)
        if labels.shape != (len(positions),) or (
            labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < 12
        ):
            raise ValueError(f"expected {len(positions)} labels from 0 to 11, got {labels.tolist()}")
        uniforms, noise = self._draw(positions)
        scene = _scene(uniforms.to(dtype), labels // 2, self.config)
        scene = {name: value.to(self.device) for name, value in scene.items()}
        clips = _render(scene, noise.to(self.device, dtype), self.config)  # (B, 3, T, H, W)
        labels = labels.to(self.device)
        odd = (labels % 2 == 1).view(-1, 1, 1, 1, 1)
        return torch.where(odd, reverse(clips), clips), labels

    def _position(self, index: int) -> int:
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} is outside a set of {self.length} clips")
        return index % self.length

    def _draw(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Uniforms for the scenes (B, n) on the CPU, and noise of unit variance (B, 3, T, H, W), empty when there is
        none.

        Only ``torch.rand`` is used: its CPU stream is plain Mersenne-Twister integers, whereas ``randn``
        takes logarithms and cosines that differ between vector instruction sets.
        """
        config = self.config
        shape = (3, config.frames, config.height, config.width)
        drawn = config.noise > 0 and not self.hashed_noise
        uniforms = torch.empty(len(positions), _GLOBAL + (2 + config.distractors) * _SLOT)
        noise = torch.empty(len(positions), *(shape if drawn else (0,)))
        seeds = [mix_seeds(self.seed, position) for position in positions]
        for row, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            torch.rand(uniforms.shape[1], generator=generator, out=uniforms[row])
            if drawn:
                torch.rand(shape, generator=generator, out=noise[row])
        if config.noise > 0 and self.hashed_noise:
            return uniforms, hashed(seeds, shape, device=self.device)
        return uniforms, (noise - 0.5) * math.sqrt(12)


def mix_seeds(seed: int, index: int) -> int:
    """One 32-bit seed out of two numbers, by splitmix64's finaliser: neighbours have nothing in common."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & 0xFFFFFFFF


# What a scene takes of its item's uniforms: some for the whole clip, then as many for each thing.
_TEXTURE = 6 * _WAVES
_GLOBAL = 24 + 3 + _TEXTURE
_SLOT = 24 + _TEXTURE

# What describes one thing of a scene.
_PATH = ("centre", "radius", "angle", "begin", "finish", "ease")
_OUTLINE = ("blob", "lobes", "depth", "lobe_phase", "sides", "stretch")
_THING = (*_PATH, *_OUTLINE, "colour", "frequency", "phase", "amplitude")


class _Uniforms:
    """Takes columns of a (B, n) table of uniform numbers from left to right."""

    def __init__(self, table: torch.Tensor):
        self.table, self.used = table, 0

    def take(self, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """The next column, stretched to ``low..high``: (B,)."""
        self.used += 1
        return low + (high - low) * self.table[:, self.used - 1]

    def take_many(self, count: int) -> torch.Tensor:
        """The next ``count`` columns as they are: (B, count)."""
        self.used += count
        return self.table[:, self.used - count : self.used]

    def skip_to(self, column: int) -> None:
        """Go on at a column, so that what one thing takes does not move what the next thing gets."""
        if column < self.used:
            raise ValueError(f"column {column} has been used: {self.used} are gone")
        self.used = column


def _texture(draws: _Uniforms, config: MotionConfig) -> dict[str, torch.Tensor]:
    """Waves of a texture: frequency vectors (B, K, 2), phases (B, K), amplitudes per colour (B, K, 3)."""
    u = draws.take_many(_TEXTURE).unflatten(1, (_WAVES, 6))  # (B, K, 6)
    low, high = _FREQUENCIES.get(config.appearance, config.frequencies)
    magnitude = low + (high - low) * u[..., 0]
    angle = 2 * math.pi * u[..., 1]
    return {
        "frequency": magnitude[..., None] * torch.stack([angle.sin(), angle.cos()], -1),  # (y, x)
        "phase": 2 * math.pi * u[..., 2],
        "amplitude": 0.16 * config.contrast * (2 * u[..., 3:] - 1),
    }


def _scene(uniforms: torch.Tensor, pair: torch.Tensor, config: MotionConfig) -> dict[str, torch.Tensor]:
    """Everything that the renderer needs of B scenes, from (B, n) uniforms and the pair 0..5 of each.

    Things stand in paint order: distractors, then the first and the second thing. With S things, all in scene
    coordinates: ``centre`` (B, S, 2, 2) and ``radius``, ``angle`` (B, S, 2) hold start and end; ``begin``,
    ``finish`` and ``ease`` (B, S) say when and how a thing gets from one to the other.
    """
    aspect = config.width / config.height
    draws = _Uniforms(uniforms)
    first, second = _paths(draws, pair, aspect, config.speed)
    palette = _Uniforms(uniforms)
    palette.skip_to(24)
    ground = 0.1 + 0.35 * palette.take_many(3)  # (B, 3): dim, so that things stand out
    background = _texture(palette, config)
    if not config.camouflage:
        background["amplitude"] = 0.6 * background["amplitude"]
    hue = uniforms[:, 21]

    things = []
    for slot in range(2 + config.distractors):
        own = _Uniforms(uniforms)
        own.skip_to(_GLOBAL + slot * _SLOT)
        thing = (first, second)[slot] if slot < 2 else _distractor(own, aspect, config.speed)
        own.skip_to(_GLOBAL + slot * _SLOT + 14)
        thing.update(_shape(own, turning=(pair == 3)))
        colour = _bright(own, hue + 0.5 * slot)
        own.skip_to(_GLOBAL + slot * _SLOT + 24)
        texture = _texture(own, config)
        if config.camouflage:  # the background's waves from another place: nothing but motion tells the thing apart
            colour, texture = ground, {**background, "phase": texture["phase"]}
        thing.update(texture, colour=colour)
        things.append(thing)
    things = things[2:] + things[:2]

    scene = {name: torch.stack([thing[name] for thing in things], 1) for name in things[0]}
    scene.update({f"ground_{name}": value for name, value in background.items()})
    scene["ground_colour"] = ground
    flicker = _Uniforms(uniforms)
    flicker.skip_to(22)
    scene["flicker"] = torch.stack([flicker.take(5.0, 7.0), flicker.take(0.0, 2 * math.pi)], -1)
    return scene


def _bright(own: _Uniforms, hue: torch.Tensor) -> torch.Tensor:
    """A bright colour near a hue in turns: (B, 3)."""
    hue, strength, value = hue + own.take(-0.1, 0.1), own.take(0.3, 0.8), own.take(0.85, 1.0)
    wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[:, None] - hue.new_tensor([0.0, 1 / 3, 2 / 3])))
    return value[:, None] * (1 - strength[:, None] * (1 - wheel))


def _paths(draws: _Uniforms, pair: torch.Tensor, aspect: float, speed: float) -> tuple[dict, dict]:
    """Where the first and the second thing of each scene go, for the even class of its pair."""
    u = [draws.take() for _ in range(20)]
    between = lambda i, low, high: low + (high - low) * u[i]  # noqa: E731
    zero = torch.zeros_like(u[0])
    point = lambda y, x: torch.stack([y, x], -1)  # noqa: E731

    def travel(i: int, half: float, radius: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Start and end on an axis of half-length ``half``, the thing staying (nearly) whole inside it."""
        room = 2 * (half - INSIDE * radius)
        way = torch.minimum(between(i, 0.85, 1.25) * speed * half, room)
        start = -room / 2 + u[i + 1] * (room - way)
        return start, start + way

    # 0 down and 1 rightwards: along one axis, with a little drift on the other
    radius = between(0, 0.24, LARGEST)
    down = travel(1, 1.0, radius)
    right = travel(1, aspect, radius)
    drift = between(4, -DRIFT, DRIFT)
    across_x = between(3, -1, 1) * (aspect - radius - DRIFT)
    across_y = between(3, -1, 1) * (1 - radius - DRIFT)
    moves = [
        (point(down[0], across_x - drift), point(down[1], across_x + drift), radius, radius, zero),
        (point(across_y - drift, right[0]), point(across_y + drift, right[1]), radius, radius, zero),
    ]
    # 2 towards the camera: the radius grows by a factor around a mean that the label does not move
    growth = between(1, 0.9, 1.3) * min(speed, 1.4) / 2  # half the log of the factor: 2.5 to 3.7 at speed 1
    mean = between(0, 0.34, 0.44)
    middle = point(between(2, -0.3, 0.3), between(3, -0.3, 0.3) * aspect)
    wander = point(between(4, -0.06, 0.06), between(5, -0.06, 0.06))
    moves.append((middle - wander, middle + wander, mean * (-growth).exp(), mean * growth.exp(), zero))
    # 3 clockwise: y points down, so that an angle that grows turns clockwise on the screen
    turn = between(1, 1.7, 3.1) * min(speed, 1.7)
    radius = between(0, 0.46, 0.62)
    moves.append((middle - wander, middle + wander, radius, radius, turn))
    # 4 closer: two things on a line of any direction, each going its share of the way
    along = 2 * math.pi * u[6]
    line = point(along.sin(), along.cos() * aspect**0.5)
    small, other = between(0, 0.2, 0.27), between(7, 0.2, 0.27)
    near = (small + other) * between(8, 1.15, 1.35)
    far = torch.minimum(near + between(1, 0.85, 1.1) * speed, torch.full_like(near, 1.65))
    share = between(9, 0.35, 0.65)[:, None]
    meet = point(between(2, -0.12, 0.12), between(3, -0.12, 0.12) * aspect) + 0.1 * (share - 0.5) * line
    meet_first, meet_second = meet - 0.5 * near[:, None] * line, meet + 0.5 * near[:, None] * line
    way = (far - near)[:, None] * line
    moves.append((meet_first - share * way, meet_first, small, small, zero))
    second_closer = (meet_second + (1 - share) * way, meet_second, other, other)
    # 5 covering: the second thing comes from across the middle, hides the first and stays
    still = point(between(2, 0.3, 0.5) * along.sin(), between(2, 0.3, 0.5) * along.cos() * aspect)
    slant = along + math.pi + between(3, -0.5, 0.5)
    way = (between(1, 1.0, 1.25) * min(speed, 1.2))[:, None] * point(slant.sin(), slant.cos() * aspect**0.5)
    moves.append((still, still, small, small, zero))
    cover = small * between(8, 1.6, 1.9)
    second_cover = (
        still + way,
        still + point(between(10, -0.05, 0.05), between(11, -0.05, 0.05)),
        cover,
        cover,
    )

    which = torch.arange(len(pair))
    pick = lambda values: torch.stack(values)[pair, which]  # noqa: E731
    centre = torch.stack([pick([m[0] for m in moves]), pick([m[1] for m in moves])], 2)  # (B, 2, 2)
    radius = torch.stack([pick([m[2] for m in moves]), pick([m[3] for m in moves])], -1)  # (B, 2)
    start_angle = between(12, 0, 2 * math.pi)
    angle = torch.stack([start_angle, start_angle + pick([m[4] for m in moves])], -1)
    covering = pair == 5
    begin = between(13, 0.0, 0.12)
    finish = torch.where(covering, between(14, 0.65, 0.85), between(14, 0.88, 1.0))
    ease = between(15, 0.0, 0.7)
    timing = {"begin": begin, "finish": finish, "ease": ease}
    first = {"centre": centre, "radius": radius, "angle": angle, "shown": zero + 1, **timing}

    def choose(a, b):
        return torch.where(covering.view(-1, *[1] * (a.dim() - 1)), b, a)

    ends = [choose(a, b) for a, b in zip(second_closer, second_cover)]
    second_angle = between(16, 0, 2 * math.pi)
    second = {
        "centre": torch.stack(ends[:2], 2),
        "radius": torch.stack(ends[2:], -1),
        "angle": torch.stack([second_angle, second_angle], -1),
        "shown": (pair >= 4).to(zero.dtype),
        **timing,
    }
    return first, second


def _distractor(own: _Uniforms, aspect: float, speed: float) -> dict[str, torch.Tensor]:
    """A small thing on a straight way of any direction, at its own times."""
    direction = own.take(0.0, 2 * math.pi)
    way = 0.5 * (own.take(0.3, 1.2) * speed)[:, None] * torch.stack([direction.sin(), direction.cos()], -1)
    middle = torch.stack([own.take(-0.8, 0.8), own.take(-0.8 * aspect, 0.8 * aspect)], -1)
    radius = own.take(0.1, 0.17)
    angle = own.take(0.0, 2 * math.pi)
    turn = own.take(-1.0, 1.0)
    begin, finish = own.take(0.0, 0.2), own.take(0.8, 1.0)
    return {
        "centre": torch.stack([middle - way, middle + way], 2),
        "radius": torch.stack([radius, radius], -1),
        "angle": torch.stack([angle - turn, angle + turn], -1),
        "shown": torch.ones_like(radius),
        "begin": begin,
        "finish": finish,
        "ease": torch.zeros_like(radius),
    }


def _shape(own: _Uniforms, turning: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outline: a lobed blob or a polygon of 3 to 5 sides, stretched; more where it must be seen to turn."""
    blob = (own.take() < 0.5).to(own.table.dtype)
    lobes = 2.0 + (own.take() * 3).floor()
    depth = own.take(0.0, 0.22)
    phase = own.take(0.0, 2 * math.pi)
    sides = 3.0 + (own.take() * 3).floor()
    stretch = own.take()
    stretch = torch.where(turning, 1.5 + 0.4 * stretch, 1.0 + 0.3 * stretch)
    return {
        "blob": blob,
        "lobes": lobes,
        "depth": depth,
        "lobe_phase": phase,
        "sides": sides,
        "stretch": stretch,
    }


def _waves(points: torch.Tensor, texture: dict, pixel: torch.Tensor | float) -> torch.Tensor:
    """A texture's colours at points: (B, 2, T, P), (y, x) in the texture's own units -> (B, 3, T, P).

    ``pixel`` is a pixel's width in those units, (B, T) or a number: a wave is weakened as averaging over a
    pixel would weaken it, by sinc(frequency x width), so that fine textures fade instead of aliasing.
    """
    frequency, phase, amplitude, colour = (texture[n] for n in ("frequency", "phase", "amplitude", "colour"))
    shape = points.shape[2:]  # T, P
    waves = torch.baddbmm(phase[:, :, None], 2 * math.pi * frequency, points.flatten(2)).cos_()  # (B, K, T*P)
    width = pixel[:, None] if isinstance(pixel, torch.Tensor) else pixel  # (B, 1, T)
    weakened = torch.sinc(frequency.norm(dim=-1)[:, :, None] * width).clamp(min=0)[..., None]  # (B, K, T, 1)
    waves = waves.unflatten(-1, shape).mul_(weakened).flatten(2)
    return torch.baddbmm(colour[:, :, None], amplitude.transpose(1, 2), waves).unflatten(-1, shape)


def _render(scene: dict[str, torch.Tensor], noise: torch.Tensor, config: MotionConfig) -> torch.Tensor:
    """Draw scenes of the even classes: (B, 3, T, H, W) in [0, 1]. Large clips are drawn a few frames at a time."""
    B, T, H, W = len(scene["shown"]), config.frames, config.height, config.width
    like = {"device": scene["shown"].device, "dtype": scene["shown"].dtype}
    pixel = 2.0 / H
    ys = (torch.arange(H, **like) + 0.5) * pixel - 1.0
    xs = (torch.arange(W, **like) + 0.5) * pixel - W / H
    grid = torch.stack([g.flatten() for g in torch.meshgrid(ys, xs, indexing="ij")])  # (2, H*W): y, x
    time = (torch.arange(T, **like) + 0.5) / T

    ground = {name: scene[f"ground_{name}"] for name in ("frequency", "phase", "amplitude", "colour")}
    still = _waves(grid[None, :, None].expand(B, -1, -1, -1), ground, pixel)  # (B, 3, 1, H*W)
    pieces = time.split(max(1, 300_000 // max(1, B * H * W)))
    clip = torch.cat([_draw_things(still, scene, grid, piece, pixel) for piece in pieces], 2)
    clip = clip.clamp_(0, 1).unflatten(-1, (H, W))

    if config.appearance == "grey":
        clip = clip.mean(1, keepdim=True).expand(B, 3, T, H, W)
    if config.appearance == "low_contrast":
        clip = 0.5 + 0.3 * (clip - 0.5)
    if config.appearance == "flicker":
        rate, phase = scene["flicker"][:, :1], scene["flicker"][:, 1:]
        brightness = 1.0 + 0.5 * torch.sin(2 * math.pi * rate * time + phase)  # (B, T)
        clip = clip * brightness[:, None, :, None, None]
    if config.noise > 0:
        clip = torch.add(clip, noise, alpha=config.noise)
    return clip.clamp(0, 1)


def _draw_things(
    still: torch.Tensor, scene: dict[str, torch.Tensor], grid: torch.Tensor, time: torch.Tensor, pixel: float
) -> torch.Tensor:
    """The ground (B, 3, 1, P) with all things painted over it, in order, at some times: (B, 3, T, P)."""
    clip = still.repeat(1, 1, len(time), 1)
    for s in range(scene["shown"].shape[1]):
        there = scene["shown"][:, s].nonzero().flatten()  # the scenes that have such a thing
        if there.numel() == 0:
            continue
        thing = {name: scene[name][there, s] for name in _THING}
        colour, cover = _paint(thing, grid, time, pixel)
        clip[there] = torch.lerp(clip[there], colour, cover[:, None])
    return clip


def _paint(thing: dict, grid: torch.Tensor, time: torch.Tensor, pixel: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One thing of each scene at all times: colours (B, 3, T, P), share of each pixel covered (B, T, P)."""
    begin, finish, ease = (thing[n][:, None] for n in ("begin", "finish", "ease"))
    linear = ((time - begin) / (finish - begin)).clamp(0, 1)  # (B, T)
    done = (1 - ease) * linear + ease * linear * linear * (3 - 2 * linear)
    centre = torch.lerp(thing["centre"][:, :, :1], thing["centre"][:, :, 1:], done[:, None])[..., None]  # (B, 2, T, 1)
    low, high = thing["radius"][:, :1].log(), thing["radius"][:, 1:].log()
    radius = torch.lerp(low, high, done).exp()  # (B, T): growth is even in the logarithm
    angle = torch.lerp(thing["angle"][:, :1], thing["angle"][:, 1:], done)[:, :, None]

    dy, dx = grid[0] - centre[:, 0], grid[1] - centre[:, 1]  # (B, T, P)
    cos, sin = angle.cos() / radius[..., None], angle.sin() / radius[..., None]
    along, aside = dx * cos + dy * sin, dy * cos - dx * sin  # in radii, in the thing's own axes
    root, lobes, depth, phase, sides, blob = (
        thing[n][:, None, None] for n in ("stretch", "lobes", "depth", "lobe_phase", "sides", "blob")
    )
    root = root.sqrt()
    theta = torch.atan2(aside * root, along / root)
    lobed = 1 + depth * torch.cos(lobes * theta + phase)
    sector = 2 * math.pi / sides
    polygon = 1.15 * torch.cos(sector / 2) / torch.cos(torch.remainder(theta, sector) - sector / 2)
    outline = torch.where(blob > 0.5, lobed, polygon)
    distance = torch.hypot(along / root, aside * root)
    cover = (0.5 + (outline - distance) * radius[..., None] / pixel).clamp(0, 1)  # (B, T, P)

    # The texture sticks to the thing: it moves, turns and grows with it. In units of the thing's mean radius.
    mean = ((low + high) / 2).exp()  # (B, 1)
    points = torch.stack([aside, along], 1) * mean[..., None, None]
    return _waves(points, thing, pixel * mean / radius), cover
