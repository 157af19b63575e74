"""Kernels of our own, run by Triton's interpreter, which needs no GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")


def test_kernels_compute_what_torch_computes_and_its_gradients():
    # In a process of its own: Triton asks whether to interpret when a kernel is defined.
    program = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip("the interpreter of this Triton (3.6) and this NumPy (2.4) do not go together")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found) == 9
    for name, errors in found.items():
        assert max(errors) <= (0.02 if "half" in name else 1e-5), name
