"""Memory that is freed stays with the process, for the next picture of the same size.

glibc hands blocks of more than 128 KiB back to the system at once and asks for them again with the next picture: every
page of them is cleared and mapped anew, 1,500 pages for a picture of 512x1024 and its map.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them (malloc.h)
_LARGEST, _KEPT = 32 << 20, 128 << 20  # bytes: a block, the most that glibc takes; all that is free
_BY_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """For processes that look at picture after picture; without effect where the C library is not glibc, or where the
    user's environment says how it allocates."""
    if any(name in os.environ for name in _BY_USERS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEPT)
