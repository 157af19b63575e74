"""Networks inside what torch puts around them: ``torch.compile`` and the data-parallel modules.

A wrapper is called like the network, but is not of its class, and not all of them pass on its attributes.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(network: nn.Module) -> Any:
    """The network itself: ask it for its class and its attributes, and call what was given."""
    while True:
        if (compiled := getattr(network, "_orig_mod", None)) is not None:
            network = compiled
        elif isinstance(network, DataParallel | DistributedDataParallel):
            network = network.module
        else:
            return network
