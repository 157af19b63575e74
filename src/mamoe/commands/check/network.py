"""The story of `mamoe check --model` without a data set: does text reach where the layout lets it, and nowhere else?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from mamoe.bases.sources import parts_of
from mamoe.console import note
from mamoe.errors import ConfigError
from mamoe.machine.devices import usable_device
from mamoe.machine.precision import drawing_format, format_name
from mamoe.models.backbone import Backbone
from mamoe.models.backbones import backbone_of
from mamoe.models.control.controlnet_xs import ControlledUNet
from mamoe.models.reach import Layer, Reach, measured
from mamoe.runs.source import Source
from mamoe.storage.staging import write_whole

JSON = "leaks.json"
_GIB = 2**30


def check_network(
    place: str, *, cells: int, precision: str = "fp32", device: str | None = None, out: Path | None = None
) -> tuple[str, list[str]]:
    """Measure how far text reaches in a model's network; returns what to print, and what is wrong.

    Args:
        place: a folder, a hub name, one file, a run or a checkpoint, an export, ``package:tiny``.
        cells: latent cells a side.
        precision: ``fp32``, ``bf16`` or ``fp16``: of weights and computing.
        device: where; None = the best there is.
        out: folder for ``leaks.json``.

    Raises:
        ConfigError: the model cannot be read, is of no known family, does not fit the memory, or ``cells`` do not
            fit it.
    """
    where = torch.device(usable_device(device))
    network: Any = _read(place, drawing_format("cpu", precision))
    if isinstance(network, ControlledUNet):
        note(f"{place} has a ControlNet-XS branch, which reads no prompts of regions: its UNet alone is looked at.")
        network = network.base
    _check_size(cells, network)
    _check_memory(network, where)
    reach = measured(network.to(where), (cells, cells))
    lines = [_table(place, reach), _verdict(reach)]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps({"model": place, **reach.plain()}, indent=1) + "\n", out / JSON)
        lines.append(f"\nWritten to {out / JSON}.")
    return "\n".join(lines), reach.problems


def _read(place: str, dtype: torch.dtype) -> Any:
    try:
        return parts_of(Source(path=place)).unet(dtype).eval().requires_grad_(False)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--model {place}: no model can be read there: {str(error).splitlines()[0]} Wanted a folder in diffusers "
            "layout (model_index.json, and unet/ or transformer/), one .safetensors file in the original layout, a run "
            "or an export; or a hub name that was downloaded before, or a network."
        ) from None


def _table(place: str, reach: Reach) -> str:
    def most(layers: Sequence[Layer], *names: str) -> list[str]:
        return [f"{max((getattr(one, name) for one in layers), default=0.0):.3g}" for name in names]

    held, opened = ([one for one in reach.layers if one.held is kind] for kind in (True, False))
    layers = {f"the {len(reach.layers)} layers that read text": reach.layers}
    if held and opened:
        layers = {
            f"layers that read text by region: {len(held)}": held,
            f"layers left open (layout.blocks): {len(opened)}": opened,
        }
    whole = {name: f"{value:.3g}" for name, value in reach.whole.items()}
    rows = [
        ("Another prompt for the right half changes", "left half", "right half", "gradient from the left"),
        *((name, *most(some, "left", "right", "gradient")) for name, some in layers.items()),
        ("  without a layout", *most(reach.layers, "open_left"), "", ""),
        ("the prediction (self-attention mixes cells), of its largest number", whole["left"], whole["right"], ""),
        ("  without a layout", whole["open_left"], whole["open_right"], ""),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    height, width = reach.cells
    return "\n".join(
        [
            f"{place}: {reach.network}, {reach.weights / 1e6:,.1f} M weights, {format_name(reach.dtype)}, "
            f"{height}x{width} latent cells",
            "",
            *lines,
            "",
            f"What must not change the prediction, regions that cover everything, changes it by {reach.identity:.1e}.",
        ]
    )


def _verdict(reach: Reach) -> str:
    if reach.problems:
        return f"Layouts do not steer it as they should: {'; '.join(reach.problems)}."
    if reach.allowed is not None:
        return f"Nothing to hold it to: {reach.allowed}."
    held, count = sum(one.held for one in reach.layers), len(reach.layers)
    where = "" if held == count else f" in {held} of {count} layers, as it was made (layout.blocks)"
    return f"Layouts hold{where}: a region's text enters at the cells of the region and nowhere else."


def _check_size(cells: int, network: Any) -> None:
    backbone = backbone_of(network)
    pyramid = backbone.pyramid(network.config)
    least, multiple = (
        2 ** (pyramid.count + pyramid.skipped),
        2**pyramid.skipped,
    )  # a cell for each half where it is coarsest
    if cells < least or cells % multiple:
        whole = f", and a multiple of {multiple}" if multiple > 1 else ""
        raise ConfigError(
            f"--size {cells}: wanted latent cells a side, at least {least} for this {backbone.stock.__name__}{whole}."
        )


def _check_memory(network: Any, device: torch.device) -> None:
    """Say what the check holds beside the network that was read, and refuse what does not fit."""
    held = sum(weight.nbytes for weight in network.parameters())
    need = held + _new_experts(network, backbone_of(network)) + (0 if device.type == "cpu" else held)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    note(f"The check needs about {need / _GIB:.2f} GiB more; {free / _GIB:.2f} GiB are free on {device}.")
    if need > free:
        raise ConfigError(
            f"The check needs about {need / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB are free on {device}. "
            "--precision bf16 halves it; another --device may have more."
        )


def _new_experts(network: Any, backbone: Backbone) -> int:
    """Bytes of the feed-forwards that a second expert copies."""
    if isinstance(network, backbone.ours) or backbone.routed is not None:
        return 0
    layers = [layer for name, layer in network.named_modules() if re.fullmatch(backbone.adapted["feed_forward"], name)]
    return sum(weight.nbytes for layer in layers for weight in layer.parameters())
