"""What masks say, in whichever form a network was given them."""

import torch
from torch import Tensor


def who_may(mask: Tensor) -> Tensor:
    """A mask, boolean or of log weights, as a boolean one."""
    return mask if mask.dtype == torch.bool else mask > -torch.inf
