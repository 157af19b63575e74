"""Joint attention that obeys a layout: text and picture are one sequence, the text first, and every position asks all.

    asks \\ is asked     a prompt's tokens             cells
    the whole picture's  its own                       all
    region i's           its own, whole picture's      those it covers
    a cell               of regions that cover it      all

Prompts of regions do not see each other, and the prompt of the whole picture sees none of them: what it took up from
one it would hand on to every cell. Cells see each other freely; a picture whose parts do not is several pictures.

Shapes: B images · N cells · S text tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def joint_mask(attend: Bool[Tensor, "B N S"], region: Int64[Tensor, "B S"]) -> Bool[Tensor, "B 1 S+N S+N"]:
    """Who may ask whom, one mask for all heads; True = may.

    Padding is what no cell attends. It sees itself alone, so that every row has a True, and nobody sees it.

    Args:
        attend: which cell may attend which token.
        region: the region that each token speaks of; 0 = the whole picture.
    """
    tokens = attend.shape[2]
    valid, whole = attend.any(dim=1), region == 0
    own = region.unsqueeze(2) == region.unsqueeze(1)
    text = ((own | whole.unsqueeze(1)) & valid.unsqueeze(1)) | torch.eye(tokens, dtype=torch.bool, device=attend.device)
    of_text = torch.cat([text, attend.transpose(1, 2)], dim=2)
    of_cells = torch.cat([attend, attend.new_ones(1, 1, 1).expand(len(attend), attend.shape[1], attend.shape[1])], 2)
    return torch.cat([of_text, of_cells], dim=1).unsqueeze(1)


def padding_mask(valid: Bool[Tensor, "B S"], cells: int) -> Bool[Tensor, "B 1 _ _"]:
    """The mask of a picture without regions; ``valid``: True = a token that is no padding."""
    return joint_mask(valid.unsqueeze(1).expand(-1, cells, -1), torch.zeros_like(valid).long())
