"""Bytes looked up in a table: several times as fast as numpy's indexing, which widens every index to 64 bits."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8


def looked_up(values: UInt8[np.ndarray, "H W"], table: UInt8[np.ndarray, "256"]) -> UInt8[np.ndarray, "H W"]:
    """``table[values]``."""
    found = np.ascontiguousarray(values).tobytes().translate(table.tobytes())
    return np.frombuffer(bytearray(found), dtype=np.uint8).reshape(values.shape)
