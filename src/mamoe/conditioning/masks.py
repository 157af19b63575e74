"""Who may attend what: from the layout tables of a batch to one mask per UNet level.

Area shares per region at latent size  ->  shares of ever coarser cells  ->  region masks, or the logarithms of the
shares  ->  one mask [B N S] per level, which every block of that level shares. Pure functions of tensors, without a
host sync, on whatever device the tables are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int16, Int64, Shaped
from torch import Tensor

from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import level_grids
from mamoe.vocabulary.layout import RegionResize


def coverage(batch: RegionBatch, group: Int16[Tensor, "K"], num_groups: int) -> Float[Tensor, "B G h w"]:
    """Area share, in [0, 1], of every latent cell that belongs to every group, ``group`` being a table column."""
    height, width = batch.grid
    cells = height * width
    place = batch.cell.long().add(batch.image, alpha=num_groups * cells).add_(group, alpha=cells)
    # Sums of whole numbers are exact in f32, so they do not depend on the order in which a GPU adds them.
    counts = torch.zeros(len(batch) * num_groups * cells, device=place.device)
    counts.index_add_(0, place, batch.count.float())
    return counts.view(len(batch), num_groups, height, width) / batch.cell_pixels


def region_coverage(batch: RegionBatch) -> Float[Tensor, "B R h w"]:
    """Area share, in [0, 1], of every region in every latent cell; R is the largest number of regions of a picture.

    The everywhere-regions have share 1, other regions a picture does not have share 0.
    """
    shares = coverage(batch, batch.region, max(map(len, batch.prompts)))
    shares[:, : batch.everywhere] = 1.0
    return shares


def area_shares(shares: Float[Tensor, "B G h w"], num_levels: int) -> tuple[Float[Tensor, "B G _ _"], ...]:
    """The area shares of the cells of every level, finest (``shares`` itself) first.

    A coarse cell is made of the up to 2x2 finer ones that exist: at an odd size the last row and column pool what is
    there. Areas are carried along, so that shares stay exact shares of pixels on every level.
    """
    levels = [shares]
    finer = level_grids((shares.shape[2], shares.shape[3]), num_levels - 1)
    if all(side % 2 == 0 for grid in finer for side in grid):
        for _ in range(num_levels - 1):  # all cells of a level are alike, and their mean is exact: it halves twice
            levels.append(F.avg_pool2d(levels[-1], kernel_size=2))
        return tuple(levels)
    area = shares.new_ones(1, 1, *shares.shape[-2:])
    covered = shares
    for _ in range(num_levels - 1):
        covered, area = _sum_2x2(covered), _sum_2x2(area)
        levels.append(covered / area)
    return tuple(levels)


def region_masks(
    shares: Float[Tensor, "B R h w"], mode: RegionResize, threshold: float, num_levels: int
) -> tuple[Bool[Tensor, "B R _ _"], ...]:
    """Which cells of every level each region covers, from the regions' shares at latent size.

    * ``NEAREST``: latent cells as the table says (made with the cell's centre pixel), coarser levels by nearest-exact
      sampling of the latent cells;
    * ``AVG_POOL``: cells of which the region has a share > ``threshold``, which must lie in [0, 1);
    * ``AREA``: as ``AVG_POOL``, but a region that has no such cell at a level keeps every cell it has a share in.

    A region absent at latent size stays absent, one with all shares 1 covers every cell.
    """
    if mode is RegionResize.NEAREST:
        grids = level_grids((shares.shape[2], shares.shape[3]), num_levels)
        return tuple(F.interpolate(shares, size=grid, mode="nearest-exact") > 0 for grid in grids)
    levels = area_shares(shares, num_levels)
    if mode is RegionResize.AREA:
        return tuple(_keeping_vanishing(share, threshold) for share in levels)
    return tuple(share > threshold for share in levels)


def attend_masks(
    masks: Sequence[Bool[Tensor, "B R _ _"]], region: Int64[Tensor, "B S"], valid: Bool[Tensor, "B S"]
) -> tuple[Bool[Tensor, "B _ S"], ...]:
    """Of every level: cell n attends token s where the token's region covers the cell and the token is no padding.

    Every row has a True as long as an everywhere-region has a valid token: region 0 always has. The levels are parts
    of one tensor, made at once.
    """
    cells = [mask.flatten(2) for mask in masks]
    attend = _of_tokens(torch.cat(cells, dim=2), region).logical_and_(valid.unsqueeze(1))
    return torch.split(attend, [part.shape[2] for part in cells], dim=1)


def attend_weights(
    share: Float[Tensor, "B R h w"], region: Int64[Tensor, "B S"], valid: Bool[Tensor, "B S"]
) -> Float[Tensor, "B N S"]:
    """The logarithm of the share that token s's region has of cell n; -inf where it has none or the token is padding.

    Added to the scores it makes cell n attend token s in proportion to exp(score) times the share. Every row has a
    finite entry as long as an everywhere-region has a valid token: its shares are 1.
    """
    return _of_tokens(share.log().flatten(2), region).masked_fill(~valid.unsqueeze(1), -torch.inf)


def _of_tokens(values: Shaped[Tensor, "B R N"], region: Int64[Tensor, "B S"]) -> Shaped[Tensor, "B N S"]:
    """For every cell and token the value of the token's region."""
    # Gathered along the last axis, which is how attention reads the result: no transposed copy of all tokens
    # afterwards, but one of the few regions before, because gathering from neighbours is twice as fast.
    values_BNR = values.transpose(1, 2).contiguous()
    return values_BNR.gather(2, region.unsqueeze(1).expand(-1, values_BNR.shape[1], -1))


def _keeping_vanishing(share: Float[Tensor, "B R h w"], threshold: float) -> Bool[Tensor, "B R h w"]:
    remains = share.amax(dim=(2, 3), keepdim=True) > threshold
    return share > remains * threshold  # else > 0


def _sum_2x2(values: Float[Tensor, "B G h w"]) -> Float[Tensor, "B G _ _"]:
    return F.avg_pool2d(values, kernel_size=2, ceil_mode=True, divisor_override=1)
