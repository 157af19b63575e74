"""Which expert works on which cell: from the layout tables of a batch to one routing per UNet level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.conditioning.masks import area_shares, coverage
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import ExpertRouting
from mamoe.vocabulary.layout import ExpertResize


def expert_routings(batch: RegionBatch, mode: ExpertResize, num_levels: int) -> tuple[ExpertRouting, ...]:
    """The routing of every level, finest first; see :func:`route_hard` and :func:`route_by_share`."""
    route = route_hard if mode is ExpertResize.NEAREST else route_by_share
    return tuple(route(share) for share in area_shares(expert_coverage(batch), num_levels))


def expert_coverage(batch: RegionBatch) -> Float[Tensor, "B E h w"]:
    """Area share, in [0, 1], of every expert in every latent cell; sums to 1 per cell."""
    return coverage(batch, batch.expert, batch.num_experts)


def route_hard(share: Float[Tensor, "B E h w"]) -> ExpertRouting:
    """Every cell to the one expert with the largest share of it. No host sync.

    Of equal shares the lowest expert id wins, but the rest group (expert 0) loses to every other: what a grouping
    names is what it is about, and named things are often thinner than a cell.
    """
    share_BNE = share.roll(-1, dims=1).flatten(2).transpose(1, 2).contiguous()  # argmax is slow across a distance
    expert = (share_BNE.argmax(dim=2) + 1) % share.shape[1]  # argmax takes the first of equals
    ordered, token = expert.flatten().sort(stable=True)
    return ExpertRouting(token=token, offsets=_slice_ends(ordered, share.shape[1]), weight=None)


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
