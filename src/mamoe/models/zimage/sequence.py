"""Where everything stands in Z-Image's sequence when a layout gives it several prompts.

    text | what fills the text | what fills the picture | cells

The stock model fills text and picture with learned vectors up to whole multiples of 32 positions, and every position
asks them too. Here the prompt of the whole picture and the picture are filled as they are there; prompts of regions
are not, as no prompt is whose length is such a multiple. (There the picture comes first; positions that are told
leave the order without meaning.)

A place has three numbers: of text its position from 1, 0, 0; of cells the first position after the text, row, column;
what fills the picture stands at 0, 0, 0. Rotations tell differences of places alone. So the prompt of the whole
picture and the cells stand where the stock model puts them, and a prompt of a region ends as far before the cells as
it would alone: its words are as far from each other and from every cell as if it were the only one.

Shapes: B images · N cells · P positions of the picture, N of them behind those that fill it · S text tokens · Q
positions of the text, with those that fill it behind the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from jaxtyping import Bool, Int64
from torch import Tensor

from mamoe.models.joint.attention import places_in_prompts
from mamoe.vocabulary.conditioning import LevelConditioning


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sequence:
    """Places of everything, and of the text which region it speaks of and what of it is there."""

    text: Int64[Tensor, "B Q 3"]
    picture: Int64[Tensor, "B P 3"]
    region: Int64[Tensor, "B Q"]
    valid: Bool[Tensor, "B Q"]  # False = nobody sees it
    attend: Bool[Tensor, "B N _"] | None  # which cell may attend which position before the cells; None = every
    filled: int  # Q - S
    picture_filled: int  # P - N


def laid_out(level: LevelConditioning, tokens: int, batch: int, device: torch.device) -> Sequence:
    """The sequence of a layout for ``tokens`` of text; without masks all of it is one prompt's, and nothing is masked.

    How much fills the text depends on the prompts, which the host does not know: where a mask can leave out what is
    too much, there are 32 such positions.
    """
    attend, cells = level.attend, level.grid[0] * level.grid[1]
    if attend is None or level.region is None:
        filled = -tokens % SEQ_MULTI_OF
        region = torch.zeros((batch, tokens), dtype=torch.int64, device=device)
        valid = torch.ones_like(region, dtype=torch.bool)
    else:
        filled, region, valid = SEQ_MULTI_OF, level.region, attend.any(dim=1)
    own = _in_multiples(_lengths(region, valid))
    length = ((region == 0) & valid).sum(dim=1, keepdim=True)  # of the whole picture's prompt
    whole = _in_multiples(length)
    position = 1 + places_in_prompts(region) + whole - own
    further = torch.arange(filled, device=device) + length
    valid = torch.cat([valid, further < whole], dim=1)
    along = torch.cat([position, 1 + further], dim=1) * valid
    extra = -cells % SEQ_MULTI_OF
    if attend is not None:
        attend = torch.cat(
            [attend, valid[:, tokens:].unsqueeze(1).expand(-1, cells, -1), attend.new_ones(batch, cells, extra)], dim=2
        )
    return Sequence(
        text=F.pad(along.unsqueeze(2), (0, 2)),
        picture=_of_picture(whole, level.grid, extra),
        region=F.pad(region, (0, filled)),
        valid=valid,
        attend=attend,
        filled=filled,
        picture_filled=extra,
    )


def apart_mask(region: Int64[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]) -> Bool[Tensor, "B 1 Q Q"]:
    """Who may ask whom where text is by itself, one mask for all heads: each its own prompt, padding itself."""
    alone = torch.eye(region.shape[1], dtype=torch.bool, device=region.device)
    return ((_together(region) & valid.unsqueeze(1)) | alone).unsqueeze(1)


def longest_prompt(level: LevelConditioning, tokens: int) -> int:
    """How many positions the longest prompt of a layout takes. Waits for the device."""
    if level.attend is None or level.region is None:
        return tokens
    return int(_lengths(level.region, level.attend.any(dim=1)).max())


def _lengths(region: Int64[Tensor, "B S"], valid: Bool[Tensor, "B S"]) -> Int64[Tensor, "B S"]:
    """How many tokens the prompt of every token has, without padding."""
    return (_together(region) & valid.unsqueeze(1)).sum(dim=2)


def _together(region: Int64[Tensor, "B S"]) -> Bool[Tensor, "B S S"]:
    return region.unsqueeze(2) == region.unsqueeze(1)


def _of_picture(whole: Int64[Tensor, "B 1"], grid: tuple[int, int], extra: int) -> Int64[Tensor, "B P 3"]:
    device = whole.device
    rows, columns = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    first = (whole + 1).expand(-1, grid[0] * grid[1])
    cells = torch.stack([first, *(one.flatten().expand_as(first) for one in (rows, columns))], dim=2)
    return F.pad(cells, (0, 0, extra, 0))


def _in_multiples(length: Int64[Tensor, "*M"]) -> Int64[Tensor, "*M"]:
    return length + -length % SEQ_MULTI_OF
