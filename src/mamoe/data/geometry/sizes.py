"""Heights and widths alone: what a picture's become before it meets the model."""

from __future__ import annotations

MULTIPLE = 8  # pixels per latent cell: every size must be divisible by it
MOST_PIXELS = 1 << 16  # of a side: more is a slip of the pen


def covering(picture: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """The smallest (H, W) of about the picture's aspect that covers ``least``."""
    scale = max(least[0] / picture[0], least[1] / picture[1])
    return max(least[0], round(picture[0] * scale)), max(least[1], round(picture[1] * scale))


def in_cells(size: tuple[int, int], multiple: int = MULTIPLE) -> tuple[int, int]:
    """What is left of (H, W) when it is cut to whole latent cells, or patches of them of ``multiple`` pixels."""
    return size[0] - size[0] % multiple, size[1] - size[1] % multiple
