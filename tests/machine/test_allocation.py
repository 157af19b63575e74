"""Memory that is freed is used again without asking the system."""

import os
import platform
import subprocess
import sys

import pytest

COUNTED = """
import resource
import numpy as np
from mamoe.machine.allocation import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [np.ones(size << 20, dtype=np.uint8) for size in (1, 2, 3, 4)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if {kept}:
    keep_freed_memory()
faults()
print(faults())
"""


def faults(kept: bool, **more: str) -> int:
    words = [sys.executable, "-c", COUNTED.format(kept=kept)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | more
    return int(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    assert faults(kept=True) < 2000 < faults(kept=False)
    assert faults(kept=True, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 2000
