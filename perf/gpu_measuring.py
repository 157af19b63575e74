"""How perf/gpu.py measures: works in turn, round after round, by the clock and by what their kernels add up to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from step import SD21

SMALL = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
PIXART_SIGMA = {
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "sample_size": 64,
    "caption_channels": 4096,
    "use_additional_conditions": False,
}
SMALL_PIXART = {
    **PIXART_SIGMA,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "sample_size": 8,
    "caption_channels": 32,
}
T5_TOKENS = 300
VAE_WIDTHS = (128, 256, 512, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How large everything is."""

    unet: dict[str, Any]
    transformer: dict[str, Any]
    batch: int
    cells: int  # latent cells along a side
    rounds: int
    experts: tuple[int, ...]
    pictures: tuple[int, ...]
    steps: int
    vae_widths: tuple[int, ...]
    device: torch.device
    autocast: bool
    profile: Path | None = None


FULL = Scale(
    unet=SD21,
    transformer=PIXART_SIGMA,
    batch=10,
    cells=64,
    rounds=9,
    experts=(5, 10, 20),
    pictures=(1, 4),
    steps=20,
    vae_widths=VAE_WIDTHS,
    device=torch.device("cuda"),
    autocast=True,
)


def quick_scale() -> Scale:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = {
        "unet": SMALL,
        "transformer": SMALL_PIXART,
        "batch": 2,
        "cells": 8,
        "rounds": 2,
        "experts": (3,),
        "pictures": (1,),
        "steps": 2,
    }
    return replace(FULL, **small, vae_widths=(8, 8, 8, 8), device=device, autocast=False)


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Until the device was done, and until the host had given its orders."""
    settle(device)
    began = time.perf_counter()
    work()
    ordered = time.perf_counter()
    settle(device)
    return 1000 * (time.perf_counter() - began), 1000 * (ordered - began)


def kernels(work: Callable[[], object], device: torch.device, report: Path | None = None) -> float | None:
    """Milliseconds that the kernels of one round add up to; None where there is no GPU. ``report`` gets their names."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        settle(device)
    events = profile.key_averages()
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(events.table(sort_by="self_device_time_total", row_limit=80, max_name_column_width=90))
    return sum(event.self_device_time_total for event in events) / 1000


def compared(
    works: dict[str, Callable[[], object]], scale: Scale, what: str, *, profiled: bool = True
) -> dict[str, dict[str, float | None]]:
    """Every work in turn, round after round, the first round left out; then, on request, once under the profiler."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(1 + scale.rounds):
        for name, work in works.items():
            times[name].append(milliseconds(work, scale.device))
    found: dict[str, dict[str, float | None]] = {}
    for name, taken in times.items():
        report = None if scale.profile is None else scale.profile / f"{what}-{name}.txt"
        whole, host = zip(*taken[1:], strict=True)
        device = kernels(works[name], scale.device, report) if profiled else None
        found[name] = {**spread(whole), "host": statistics.median(host), "device": device}
    return found


def spread(taken: Sequence[float]) -> dict[str, float]:
    return {"ms": statistics.median(taken), "least": min(taken), "most": max(taken)}


def peak_gib(work: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    work()
    settle(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def ratios(both: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """Ours against stock, in wall time and on the device."""
    stock, ours = both["stock"], both["ours"]
    wall = ours["ms"] / stock["ms"]  # type: ignore[operator]
    device = None if not stock["device"] else ours["device"] / stock["device"]  # type: ignore[operator]
    return {"wall_ratio": wall, "device_ratio": device, **both}
