"""The demo's stimuli: colourful synthetic scenes in place of NSD's photographs.

Every image follows from the seed and its own id alone, so that a dataset with more sessions shows
the same pictures as a smaller one.
"""

import colorsys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.layout import IMAGE_SHAPE

Colour = NDArray[np.floating]
"""RGB in 0..1, shape (3,)."""
Mask = NDArray[np.floating]
"""Opacity in 0..1, shape (height, width) or anything that broadcasts to it."""

SIZE = IMAGE_SHAPE[0]
"""Height and width of the square picture, in pixels."""
WHITE: Colour = np.ones(3, np.float32)


def colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue (turns, any real number), saturation and value (clipped to 0..1)."""
    rgb = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.array(rgb, dtype=np.float32)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with a share (0..1) of ``second`` in it."""
    return np.asarray(first + np.float32(share) * (second - first))


class Canvas:
    """A square picture; coordinates run from 0 to 1, x to the right and y downwards.

    `pixels` are (425, 425, 3) float32, 0..1 after :meth:`finish`; `x` (1, 425) and `y` (425, 1) are
    the coordinates of their centres. The texture of :meth:`noise` comes from `rng`.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        steps = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) / SIZE
        self.rng = rng
        self.x = steps[np.newaxis, :]
        self.y = steps[:, np.newaxis]
        self.pixels = np.zeros(IMAGE_SHAPE, dtype=np.float32)

    def blend(self, mask: Mask, paint: NDArray[np.floating], where: Any = ...) -> None:
        """Lay paint, one colour or one per pixel, over ``pixels[where]`` with an opacity."""
        target = self.pixels[where]
        target += mask[..., np.newaxis] * (paint - target)

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, stop: float = 1.0) -> None:
        """Paint everything below ``start`` from ``top`` to ``bottom``, reached at ``stop``."""
        share = np.clip((self.y - start) / max(stop - start, 1e-3), 0, 1)
        ramp = top + share[..., np.newaxis] * (bottom - top)
        self.blend(self.soft(self.y - start), ramp)

    @staticmethod
    def soft(distance: NDArray[np.floating], blur: float = 1.0) -> Mask:
        """Opacity of a shape whose inside has positive distance; its edge is ``blur`` pixels."""
        return np.asarray(np.clip(distance * np.float32(SIZE / blur) + np.float32(0.5), 0, 1))

    def noise(self, cells_x: int, cells_y: int | None = None) -> NDArray[np.floating]:
        """Smooth noise, (425, 425), mean about 0 and standard deviation about 1."""
        from PIL import Image

        grid = self.rng.standard_normal((cells_y or cells_x, cells_x), dtype=np.float32)
        resized = Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.asarray(resized) * np.float32(1.3)

    def ridge(self, height: float, roughness: float) -> NDArray[np.floating]:
        """Height (y) of a hilly skyline at every x, shape (1, 425)."""
        line = np.full_like(self.x, height)
        for octave in range(5):
            frequency = self.rng.uniform(0.6, 1.3) * 2**octave
            phase = self.rng.uniform(0, 2 * np.pi)
            line += np.sin(2 * np.pi * frequency * self.x + phase) * (roughness / 1.8**octave)
        return line

    def around(
        self, x: float, y: float, radius: float
    ) -> tuple[tuple[slice, slice], NDArray[np.floating], NDArray[np.floating]]:
        """Select a square about a point; also give its pixels' offsets (x, y) from the point."""
        low_y, low_x = (max(int((c - radius) * SIZE) - 2, 0) for c in (y, x))
        high_y, high_x = (max(int((c + radius) * SIZE) + 3, 0) for c in (y, x))
        rows, columns = slice(low_y, high_y), slice(low_x, high_x)
        return (rows, columns), self.x[:, columns] - x, self.y[rows] - y

    def disc(self, x: float, y: float, radius: float, paint: Colour) -> None:
        """Paint a filled circle."""
        where, dx, dy = self.around(x, y, radius)
        self.blend(self.soft(radius - np.hypot(dx, dy)), paint, where)

    def box(self, left: float, top: float, right: float, bottom: float, paint: Colour) -> None:
        """Paint a filled rectangle, its edges on whole pixels."""
        rows = slice(max(int(top * SIZE), 0), max(int(bottom * SIZE), 0))
        columns = slice(max(int(left * SIZE), 0), max(int(right * SIZE), 0))
        self.pixels[rows, columns] = paint

    def glow(self, x: float, y: float, radius: float, paint: Colour, opacity: float) -> None:
        """Light that fades with the distance from a point."""
        squared = ((self.x - x) ** 2 + (self.y - y) ** 2) / np.float32(radius**2)
        self.blend(np.float32(opacity) * np.exp(-squared), paint)

    def ball(self, x: float, y: float, radius: float, paint: Colour) -> None:
        """Paint a lit sphere with its shadow on the ground."""
        where, dx, dy = self.around(x + 0.3 * radius, y + 0.95 * radius, 1.6 * radius)
        shadow = np.exp(-((dx / (0.9 * radius)) ** 2) - (dy / (0.22 * radius)) ** 2)
        self.blend(np.float32(0.6) * shadow, paint * np.float32(0.12), where)
        where, dx, dy = self.around(x, y, radius)
        dx, dy = dx / np.float32(radius), dy / np.float32(radius)
        depth = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
        light = np.clip(-0.5 * dx - 0.6 * dy + 0.62 * depth, 0, 1)
        shine = light**24
        shaded = paint * (0.28 + 0.8 * light[..., np.newaxis]) + 0.55 * shine[..., np.newaxis]
        self.blend(self.soft((1 - np.hypot(dx, dy)) * np.float32(radius)), shaded, where)

    def flower(
        self, x: float, y: float, radius: float, petals: int, paint: Colour, heart: Colour
    ) -> None:
        """Paint a flower seen from above."""
        where, dx, dy = self.around(x, y, radius)
        distance = np.hypot(dx, dy) / np.float32(radius)
        turn = np.float32(self.rng.uniform(0, 2 * np.pi))
        lobe = np.abs(np.cos(0.5 * petals * (np.arctan2(dy, dx) + turn)))
        edge = 0.42 + 0.58 * lobe**0.6
        shade = (0.55 + 0.5 * distance / edge)[..., np.newaxis] * (0.85 + 0.15 * lobe)[..., None]
        self.blend(self.soft((edge - distance) * np.float32(radius)), paint * shade, where)
        self.disc(x, y, 0.2 * radius, heart)

    def finish(self) -> NDArray[np.uint8]:
        """Return the picture as (425, 425, 3) uint8, with the slight grain of a photograph."""
        grain = self.rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)
        self.pixels += np.float32(0.012) * grain
        np.clip(self.pixels, 0, 1, out=self.pixels)
        return (self.pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def render(image_id: int, seed: int = 0) -> NDArray[np.uint8]:
    """Picture, (425, 425, 3) RGB, of an image id: NSD's 0-based 73k row."""
    rng = np.random.default_rng([seed, image_id])
    canvas = Canvas(rng)
    SCENES[rng.integers(len(SCENES))](canvas, rng)
    return canvas.finish()


def _sky(canvas: Canvas, rng: np.random.Generator, horizon: float) -> NDArray[np.floating]:
    """Sky with sun and clouds above a horizon (y); returns the colour at the horizon."""
    dusk = rng.uniform()
    top = colour(rng.uniform(0.53, 0.68), rng.uniform(0.35, 0.8), 0.95 - 0.55 * dusk)
    low = mix(
        colour(rng.uniform(0.5, 0.6), 0.2, 0.97),
        colour(rng.uniform(-0.08, 0.12), 0.65, 0.95),
        min(1.0, 1.4 * dusk),
    )
    canvas.gradient(top, low, stop=horizon)
    sun_x, sun_y = rng.uniform(0.1, 0.9), horizon * rng.uniform(0.2, 0.95)
    sun = colour(rng.uniform(0.05, 0.15), 0.25 + 0.45 * dusk, 1.0)
    canvas.glow(sun_x, sun_y, rng.uniform(0.15, 0.4), sun, 0.75)
    canvas.disc(sun_x, sun_y, rng.uniform(0.03, 0.07), mix(sun, WHITE, 0.5))
    cover = rng.uniform(-0.6, 1.2)
    clouds = canvas.noise(4, 9) + 0.5 * canvas.noise(10, 24) + 0.25 * canvas.noise(30, 60)
    opacity = np.clip(0.6 * (clouds - 1 + cover), 0, 0.85)
    canvas.blend(opacity, mix(WHITE, low, 0.3))
    return low


def _hills(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.35, 0.65)
    haze = _sky(canvas, rng, horizon)
    hue = rng.choice([0.1, 0.22, 0.3, 0.36, 0.47, 0.75]) + rng.uniform(-0.04, 0.04)
    layers = int(rng.integers(2, 5))
    roughness = rng.uniform(0.015, 0.08)
    for layer in range(layers):
        near = (layer + 1) / layers
        ground = colour(hue + 0.06 * near, 0.35 + 0.4 * near, 0.75 - 0.4 * near)
        line = canvas.ridge(horizon + (0.95 - horizon) * layer / layers, roughness)
        texture = canvas.noise(14 + 20 * layer, 30 + 20 * layer)[..., np.newaxis]
        paint = mix(ground, haze, 0.65 * (1 - near)) * (1 + np.float32(0.13 * near) * texture)
        canvas.blend(canvas.soft(canvas.y - line), paint)
        if layer == layers - 2 and rng.uniform() < 0.7:
            _trees(canvas, rng, line, mix(ground, haze, 0.2) * np.float32(0.6))


def _trees(
    canvas: Canvas, rng: np.random.Generator, line: NDArray[np.floating], paint: Colour
) -> None:
    pointed = rng.uniform() < 0.5
    for _ in range(int(rng.integers(4, 25))):
        x, height = rng.uniform(0, 1), rng.uniform(0.05, 0.14)
        foot = float(line[0, int(x * SIZE)]) + 0.02
        if pointed:
            where, dx, dy = canvas.around(x, foot - height / 2, height)
            inside = np.minimum(0.3 * (dy + height / 2) - np.abs(dx), height / 2 - dy)
            canvas.blend(canvas.soft(inside), paint, where)
        else:
            canvas.box(x - 0.006, foot - height, x + 0.006, foot, paint * np.float32(0.5))
            canvas.disc(x, foot - height, 0.4 * height, paint)
            canvas.disc(x - 0.1 * height, foot - 1.1 * height, 0.28 * height, paint * 1.35)


def _sea(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.3, 0.6)
    light = _sky(canvas, rng, horizon)
    water = colour(rng.uniform(0.44, 0.64), rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.75))
    canvas.gradient(mix(water, light, 0.55), water * np.float32(0.7), horizon, 1.0)
    depth = np.clip(canvas.y - horizon, 0, 1)
    waves = canvas.noise(5, 30) + canvas.noise(16, 70) + 0.6 * canvas.noise(40, 130)
    canvas.blend(np.clip(waves - 0.7, 0, 0.6) * (depth > 0), mix(light, WHITE, 0.4))
    for _ in range(int(rng.integers(0, 4))):
        x, size = rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.2)
        foot = horizon + size * rng.uniform(0.1, 0.7)
        sail = colour(rng.uniform(), rng.choice([0.05, 0.8]), 0.97)
        where, dx, dy = canvas.around(x, foot - size / 2, size)
        canvas.blend(
            canvas.soft(np.minimum(0.55 * (dy + size / 2) - dx, dx).clip(max=size / 2 - dy)),
            sail,
            where,
        )
        canvas.box(x - 0.3 * size, foot, x + 0.6 * size, foot + 0.12 * size, sail * 0.35)
    if rng.uniform() < 0.5:
        sand = colour(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.55), 0.9)
        line = canvas.ridge(rng.uniform(0.75, 0.92), 0.015)
        texture = canvas.noise(120)[..., np.newaxis] * np.float32(0.05)
        canvas.blend(canvas.soft(canvas.y - line + 0.012, 8), WHITE)
        canvas.blend(canvas.soft(canvas.y - line), sand * (1 + texture))


def _city(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.75, 0.95)
    haze = _sky(canvas, rng, ground)
    night = rng.uniform() < 0.5
    if night:
        canvas.pixels *= np.float32(0.35)
    hue = rng.uniform()
    for near in (0.3, 0.65, 1.0):
        x = -0.05
        while x < 1:
            width, height = rng.uniform(0.06, 0.2), rng.uniform(0.15, 0.75) * (1.15 - 0.5 * near)
            wall = colour(hue + rng.normal(0, 0.06), rng.uniform(0.15, 0.55), 0.75 - 0.35 * near)
            wall = mix(wall * np.float32(0.4 if night else 1.0), haze, 0.4 * (1 - near))
            canvas.box(x, ground - height, x + width, ground, wall)
            lamp = colour(rng.uniform(0.1, 0.16), 0.5, 1.0) if night else wall * np.float32(0.55)
            step = rng.uniform(0.018, 0.035)
            for top in np.arange(ground - height + step, ground - step, 1.6 * step):
                for left in np.arange(x + 0.4 * step, x + width - step, 1.3 * step):
                    if rng.uniform() < 0.6 * near:
                        canvas.box(left, top, left + 0.6 * step, top + 0.9 * step, lamp)
            x += width + rng.uniform(0, 0.05)
    street = colour(hue + 0.5, 0.15, 0.25 if night else 0.5)
    canvas.gradient(street, street * np.float32(0.6), ground, 1.0)


def _still_life(canvas: Canvas, rng: np.random.Generator) -> None:
    edge = rng.uniform(0.4, 0.6)
    wall = colour(rng.uniform(), rng.uniform(0.15, 0.6), rng.uniform(0.35, 0.95))
    canvas.gradient(wall, wall * np.float32(0.75), stop=edge)
    if rng.uniform() < 0.5:
        stripes = np.sin(2 * np.pi * rng.uniform(6, 16) * canvas.x) + 0 * canvas.y
        canvas.blend(canvas.soft(0.02 * stripes) * np.float32(0.25), wall * np.float32(0.5))
    table = colour(rng.choice([0.06, 0.09, rng.uniform()]), rng.uniform(0.2, 0.7), 0.75)
    grain = canvas.noise(5, 90)[..., np.newaxis] * np.float32(0.08)
    canvas.blend(canvas.soft(canvas.y - edge), table * (1 + grain))
    hue, spread = rng.uniform(), rng.uniform(0.03, 0.3)
    for foot in np.sort(rng.uniform(edge + 0.1, 0.95, int(rng.integers(2, 9)))):
        radius = rng.uniform(0.07, 0.13) * (0.6 + foot)
        fruit = colour(hue + rng.normal(0, spread), rng.uniform(0.6, 0.95), rng.uniform(0.6, 1))
        canvas.ball(rng.uniform(0.1, 0.9), foot - radius, radius, fruit)


def _meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    green = colour(rng.uniform(0.2, 0.45), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.6))
    canvas.gradient(green * np.float32(1.4), green * np.float32(0.6))
    blades = canvas.noise(60, 8)[..., np.newaxis] * np.float32(0.18)
    canvas.pixels *= 1 + blades
    for _ in range(10):
        x, y, radius = rng.uniform(0, 1, 3) * [1, 1, 0.12] + [0, 0, 0.03]
        canvas.glow(x, y, radius, colour(rng.uniform(0.1, 0.45), 0.5, 0.9), 0.3)
    hue, spread = rng.uniform(), rng.uniform(0.01, 0.12)
    size = rng.uniform(0.05, 0.2)
    heart = colour(rng.uniform(0.08, 0.16), 0.85, 0.9)
    for _ in range(int(rng.integers(3, 6 + int(1.2 / size)))):
        petal = colour(hue + rng.normal(0, spread), rng.uniform(0.4, 0.9), rng.uniform(0.75, 1))
        x, y = rng.uniform(0.05, 0.95, 2)
        canvas.flower(x, y, size * rng.uniform(0.7, 1.3), int(rng.integers(5, 11)), petal, heart)


def _pattern(canvas: Canvas, rng: np.random.Generator) -> None:
    hue = rng.uniform()
    first = colour(hue, rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.6))
    second = colour(hue + rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.9), rng.uniform(0.75, 1))
    frequency, angle = rng.uniform(2.5, 14), rng.uniform(0, np.pi)
    warp = np.float32(rng.uniform(0, 0.09)) * canvas.noise(4)
    along = canvas.x * np.cos(angle) + canvas.y * np.sin(angle) + warp
    across = canvas.y * np.cos(angle) - canvas.x * np.sin(angle) + warp
    wave = np.sin(2 * np.pi * frequency * along)
    if rng.uniform() < 0.4:
        wave = wave * np.sin(2 * np.pi * frequency * rng.uniform(0.4, 1) * across)
    sharpness = np.float32(rng.choice([0.9, 4.0]))
    canvas.pixels += first
    canvas.blend(np.clip(sharpness * wave, -1, 1) * 0.5 + np.float32(0.5), second)
    canvas.pixels *= (1 + 0.12 * canvas.noise(3))[..., np.newaxis]


SCENES: Final = (_hills, _sea, _city, _still_life, _meadow, _pattern)
