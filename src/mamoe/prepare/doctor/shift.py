"""Maps that lie beside their pictures: where the edges of the picture fit the borders of the map best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

REACH = 24  # samples to each side that a map may be off
_NEAR = 2  # samples that say nothing: borders are drawn a little in or out
# How much better another place must fit. Maps of photographs fit best where they are, or so weakly that no place stands
# out: on the CamVid and Cityscapes pictures at hand the ratio is at most 1.05.
_BETTER, _LEAST, _STANDS_OUT = 1.2, 0.12, 2.5
# At half the samples, a fifth of the work, the ratio to the place itself is below this for 19 of 20 sound maps, and
# above 1.09 for all that are off: 1,222 shifts of those pictures and of drawn ones.
_SURE = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Offset:
    """How a map would have to move to fit its picture."""

    down: int  # pixels of the file; negative: up
    right: int
    here: float  # correlation of edges and borders as they are, at most 1
    there: float  # the same after the move

    def __str__(self) -> str:
        ways = [f"{abs(n)} pixels {names[n > 0]}" for n, names in self._moves if n]
        return f"{' and '.join(ways)} (edges agree by {self.there:.2f} there and {self.here:.2f} here)"

    @property
    def _moves(self) -> tuple[tuple[int, tuple[str, str]], ...]:
        return (self.down, ("up", "down")), (self.right, ("left", "right"))


def offset_of(grey: UInt8[np.ndarray, "h w"], borders: Bool[np.ndarray, "h w"], step: int) -> Offset | None:
    """The better place for the map, where there is one that stands out.

    Args:
        grey: the picture on the grid.
        borders: those of the map on the same grid.
        step: pixels of the file per sample.
    """
    strength, lines = _edges(grey), borders.astype(np.float32)
    rough = _window(_halved(strength), _halved(lines), REACH // 2)
    if rough is None or rough.max() <= _SURE * rough[rough.shape[0] // 2, rough.shape[1] // 2]:
        return None
    window = _window(strength, lines, REACH)
    if window is None:
        return None
    reach = len(window) // 2
    row, column = (int(i) for i in np.unravel_index(int(window.argmax()), window.shape))
    down, right = row - reach, column - reach
    near = slice(max(0, reach - _NEAR), reach + _NEAR + 1)
    here, there = float(window[near, near].max()), float(window[row, column])
    stands_out = there >= window.mean() + _STANDS_OUT * window.std()
    if max(abs(down), abs(right)) <= _NEAR or there < max(_LEAST, _BETTER * here) or not stands_out:
        return None
    return Offset(down=down * step, right=right * step, here=here, there=there)


def _edges(grey: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """How strong the edges are, cut at four times the mean, so that a bright one does not outweigh all others."""
    values = grey.astype(np.float32)
    strength = np.zeros_like(values)
    strength[:, 1:-1] += np.abs(values[:, 2:] - values[:, :-2])
    strength[1:-1] += np.abs(values[2:] - values[:-2])
    return np.minimum(strength, 4 * strength.mean())


def _halved(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "_ _"]:
    """Sums of 2x2 samples; of an odd side the last ones are left out."""
    height, width = (side // 2 * 2 for side in values.shape)
    rows = values[:height:2, :width] + values[1:height:2, :width]
    return rows[:, ::2] + rows[:, 1::2]


def _window(
    strength: Float[np.ndarray, "h w"], lines: Float[np.ndarray, "h w"], reach: int
) -> Float[np.ndarray, "n n"] | None:
    """How well edges lie on borders, in [-1, 1], moved down and to the right by up to ``reach`` samples, no move in the
    middle; less far where the picture is small. None where either has none, or the picture is a line.

    The picture goes on at its other side.
    """
    reach = min(reach, (min(strength.shape) - 1) // 2)
    if reach < 1:
        return None
    strength, lines = strength - strength.mean(), lines - lines.mean()
    norm = float(np.sqrt((strength**2).sum() * (lines**2).sum()))
    if norm == 0:
        return None
    product = np.fft.rfft2(strength) * np.conj(np.fft.rfft2(lines))
    surface = np.fft.irfft2(product, s=strength.shape) / norm
    places = np.arange(-reach, reach + 1)
    return surface[np.ix_(places, places)]
