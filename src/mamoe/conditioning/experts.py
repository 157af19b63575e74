"""Which expert works on which cell: from the layout tables of a batch to one routing per UNet level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from mamoe.conditioning.masks import area_shares, coverage
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import ExpertRouting, rounded_up
from mamoe.vocabulary.layout import ExpertResize


def expert_routings(batch: RegionBatch, mode: ExpertResize, num_levels: int) -> tuple[ExpertRouting, ...]:
    """The routing of every level, finest first; see :func:`route_hard` and :func:`route_by_share`."""
    shares = area_shares(expert_coverage(batch), num_levels)
    return route_hard(shares) if mode is ExpertResize.NEAREST else tuple(map(route_by_share, shares))


def expert_coverage(batch: RegionBatch) -> Float[Tensor, "B E h w"]:
    """Area share, in [0, 1], of every expert in every latent cell; sums to 1 per cell."""
    return coverage(batch, batch.expert, batch.num_experts)


def route_hard(levels: Sequence[Float[Tensor, "B E _ _"]]) -> tuple[ExpertRouting, ...]:
    """Every cell to the one expert with the largest share of it, on every level. No host sync.

    Of equal shares the lowest expert id wins, but the rest group (expert 0) loses to every other: what a grouping
    names is what it is about, and named things are often thinner than a cell.
    """
    # All levels at once, one after another: what the device is told costs the host more than the device.
    share_KE = torch.cat([share.permute(0, 2, 3, 1).flatten(0, 2) for share in levels])
    experts, counts = share_KE.shape[1], [share.numel() // share.shape[1] for share in levels]
    starts = list(accumulate(counts, initial=0))[:-1]
    expert = share_KE.roll(-1, dims=1).argmax(dim=1).add_(1).remainder_(experts)  # argmax takes the first of equals
    _add(torch.split(expert, counts), [experts * level for level in range(len(levels))])
    ordered, row = expert.sort(stable=True)
    ends = _slice_ends(ordered, experts * len(levels)).view(-1, experts)
    member = ordered.remainder_(experts).unsqueeze(1) == torch.arange(rounded_up(experts), device=row.device)
    back = torch.empty_like(row).index_copy_(0, row, torch.arange(len(row), device=row.device))
    before = [-start for start in starts]
    parts = [_add(part, before) for part in (torch.split(row, counts), ends.unbind(), torch.split(back, counts))]
    return tuple(
        ExpertRouting(token=token, offsets=offsets, weight=None, known=(own, members))
        for token, offsets, own, members in zip(*parts, torch.split(member, counts), strict=True)
    )


def _add(parts: Sequence[Shaped[Tensor, "_"]], numbers: Sequence[int]) -> Sequence[Shaped[Tensor, "_"]]:
    """``parts``, to each of which its number was added in place."""
    torch._foreach_add_(parts, numbers)  # type: ignore[attr-defined]
    return parts


def route_by_share(share: Float[Tensor, "B E h w"]) -> ExpertRouting:
    """Every cell to every expert with a share in it, outputs to be blended by these shares.

    The number of rows depends on the layout, so on an accelerator the host waits for it once per level.
    """
    share_EN = share.transpose(0, 1).flatten(1)
    expert, token = share_EN.nonzero(as_tuple=True)  # row-major: sorted by expert, then by cell
    weight = share_EN[expert, token]
    return ExpertRouting(token=token, offsets=_slice_ends(expert, share.shape[1]), weight=weight)


def concatenate_routings(routings: Sequence[ExpertRouting], tokens: Sequence[int]) -> ExpertRouting:
    """The routing of several batches laid end to end; batch i has ``tokens[i]`` = B*N flattened cells.

    Equal to routing the concatenated batch in one go.
    """
    starts = list(accumulate(tokens, initial=0))[:-1]
    expert = torch.cat([_expert_of_row(routing) for routing in routings])
    order = expert.argsort(stable=True)
    token = torch.cat([routing.token + start for routing, start in zip(routings, starts, strict=True)])
    weights = [routing.weight for routing in routings if routing.weight is not None]
    return ExpertRouting(
        token=token[order],
        offsets=torch.stack([routing.offsets for routing in routings]).sum(dim=0, dtype=torch.int32),
        weight=torch.cat(weights)[order] if weights else None,
    )


def _expert_of_row(routing: ExpertRouting) -> Int64[Tensor, "K"]:
    rows = torch.arange(len(routing.token), dtype=torch.int32, device=routing.token.device)
    return torch.searchsorted(routing.offsets, rows, right=True)


def _slice_ends(ordered: Int64[Tensor, "K"], num_experts: int) -> Tensor:
    experts = torch.arange(num_experts, device=ordered.device)
    return torch.searchsorted(ordered, experts, right=True, out_int32=True)
