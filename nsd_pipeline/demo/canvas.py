"""A small painter: soft-edged shapes, gradients and smooth noise on a float RGB picture.

What belongs here: shapes that know nothing of what they depict. What they depict is in
:mod:`nsd_pipeline.demo.scenes`.
"""

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.layout import IMAGE_SHAPE

Colour = NDArray[np.floating]
"""RGB in 0..1, shape (3,)."""
Mask = NDArray[np.floating]
"""Opacity in 0..1, shape (height, width) or anything that broadcasts to it."""

SIZE = IMAGE_SHAPE[0]
"""Height and width of the square picture, in pixels."""


def colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue (turns, any real number), saturation and value (clipped to 0..1)."""
    rgb = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.array(rgb, dtype=np.float32)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with a share (0..1) of ``second`` in it."""
    return np.asarray(first + np.float32(share) * (second - first))


class Canvas:
    """A square picture; coordinates run from 0 to 1, x to the right and y downwards.

    Parameters
    ----------
    rng
        Where the texture of :meth:`noise` comes from.

    Attributes
    ----------
    pixels
        (425, 425, 3) float32, 0..1 after :meth:`finish`.
    x, y
        (1, 425) and (425, 1) coordinates of the pixels' centres.
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

    def window(self, x: float, y: float, radius: float) -> tuple[slice, slice]:
        """Select the part of the picture within a square about a point."""
        low_y, low_x = (max(int((c - radius) * SIZE) - 2, 0) for c in (y, x))
        high_y, high_x = (max(int((c + radius) * SIZE) + 3, 0) for c in (y, x))
        return slice(low_y, high_y), slice(low_x, high_x)

    def around(
        self, x: float, y: float, radius: float
    ) -> tuple[tuple[slice, slice], NDArray[np.floating], NDArray[np.floating]]:
        """Select a window about a point; also give its pixels' offsets (x, y) from the point."""
        rows, columns = self.window(x, y, radius)
        return (rows, columns), self.x[:, columns] - x, self.y[rows] - y

    def disc(self, x: float, y: float, radius: float, paint: Colour, opacity: float = 1.0) -> None:
        """Paint a filled circle."""
        where, dx, dy = self.around(x, y, radius)
        self.blend(self.soft(radius - np.hypot(dx, dy)) * np.float32(opacity), paint, where)

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
