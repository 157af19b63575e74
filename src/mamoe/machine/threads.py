"""How the threads of OpenMP wait for each other: settled in the environment, before torch loads it.

Threads that spin while they wait are quickest on an idle machine; beside another program they take the processor from
whoever has work to do. ``perf/spin.py`` measures both.
"""

from __future__ import annotations

import os

SPINS = "1000"  # GNU spins 300,000 times; perf/spin.py, and docs/training.md for what it costs and gains
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which users decide for themselves


def wait_politely() -> None:
    """Let waiting threads spin for a moment only, unless the user's environment says how they wait.

    Processes started later inherit it. Without effect once torch is loaded.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
