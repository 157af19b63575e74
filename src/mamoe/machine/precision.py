"""Whether bfloat16 is worth choosing here: asked once per process, of the machine itself.

A CPU that only emulates bfloat16 computes with it up to sixteen times slower than in float32, and no flag tells: what
oneDNN supports and what is fast are two things. So both formats are timed on a small network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

CLEARLY = 0.9  # of float32's time: what is about as fast is not worth the lost digits
_ROUNDS = 3
_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def bf16_is_faster(device: str, *, training: bool) -> bool:
    """Whether autocast to bfloat16 is clearly faster than float32: forward alone, or with backward when training.

    On a GPU the driver's word is taken. On a CPU a small convolutional network decides, in about a tenth of a second
    (two where bfloat16 is emulated).

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        training: ask for forward and backward.
    """
    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    with torch.random.fork_rng(devices=[]):
        work = _small_work(training)
    plain, reduced = (_seconds(work, enabled) for enabled in (False, True))
    return reduced < CLEARLY * plain


def autocast_where_faster(device: str, *, training: bool) -> torch.autocast:
    """Autocast to bfloat16 where that is faster, else nothing; see :func:`bf16_is_faster`."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bf16_is_faster(device, training=training))


def drawing_format(device: str, asked: str | None = None) -> torch.dtype:
    """The type of the weights a model draws with: what is asked for (``fp32``, ``bf16``, ``fp16``), else bfloat16 on a
    GPU that has it and float32 elsewhere.
    """
    if asked is not None:
        return _FORMATS[asked]
    on_gpu = torch.device(device).type != "cpu"
    return torch.bfloat16 if on_gpu and bf16_is_faster(device, training=False) else torch.float32


def format_name(dtype: torch.dtype) -> str:
    """The short name of a type, as :func:`drawing_format` takes it; torch's own where it has none."""
    return next((name for name, known in _FORMATS.items() if known == dtype), str(dtype).removeprefix("torch."))


def _small_work(training: bool) -> Callable[[], None]:
    network = nn.Sequential(nn.Conv2d(32, 64, 3, 1, 1), nn.SiLU(), nn.Conv2d(64, 64, 3, 1, 1))
    network = network.to(memory_format=torch.channels_last).requires_grad_(training)
    pixels = torch.ones(4, 32, 32, 64).contiguous(memory_format=torch.channels_last)

    def work() -> None:
        result = network(pixels).float().square().mean()
        if training:
            result.backward()

    return work


def _seconds(work: Callable[[], None], reduced: bool) -> float:
    """The quickest of a few rounds: what disturbs a round only makes it longer. The first one prepares."""
    taken = []
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            work()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
