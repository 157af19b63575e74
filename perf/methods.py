"""What each method of fine-tuning trains, saves and costs, compared with training the whole UNet.

    python perf/methods.py [--quick] [--threads 1]

Trained weights, and the bytes of the UNet in a checkpoint (fp32, no average), are those of Stable Diffusion 2.1, with
the settings methods have by default; methods with experts have 5. Time and memory are of a UNet of its shape that is
half as wide, with adapters of half the rank, at 32x32 latents, one picture, fp32: two whole ones with their optimizers
do not fit 24 GB. A step is: forward on the prompt's 77 tokens (with experts: also 20 regions of 5 tokens), mean squared
error, backward, AdamW. For time a method and ``full`` take turns: a ratio is the median of the ratios of the rounds in
processor time, the first left out. For memory each method does two steps in a process of its own: the peak of its
resident memory above what it was before the UNet was made (Linux). ``--quick``: everything with a UNet a tenth as wide
with half the layers. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from step import EXPERTS, GLOBAL_TOKENS, REGION_TOKENS, REGIONS, SD21, conditioning_of, drawn_layouts
from torch import Tensor, nn

from mamoe.methods.concat import Concat
from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.methods.decoder import Decoder
from mamoe.methods.dora import Dora
from mamoe.methods.full import Full
from mamoe.methods.lora import Lora
from mamoe.methods.lora_experts import LoraExperts
from mamoe.methods.method import Method
from mamoe.methods.shared_expert import SharedExpert
from mamoe.models.control.call import Control, control_of, predict
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.adapter import trained_names


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    name: str
    method: Callable[[float], Method]  # from the width, as a share of SD2.1's
    experts: int = 1


VARIANTS = (
    Variant(name="full", method=lambda share: Full()),
    Variant(name="decoder", method=lambda share: Decoder()),
    Variant(name="lora", method=lambda share: _lora(share)),
    Variant(name="lora decoder_only", method=lambda share: replace(_lora(share), decoder_only=True)),
    Variant(name="dora", method=lambda share: _lora(share, Dora)),
    Variant(name="controlnet_xs", method=lambda share: ControlNetXS()),
    Variant(name="concat", method=lambda share: Concat()),
    Variant(name="full, 5 experts", method=lambda share: Full(), experts=EXPERTS),
    Variant(name="lora, 5 experts", method=lambda share: _lora(share), experts=EXPERTS),
    Variant(name="lora_experts", method=lambda share: LoraExperts(rank=max(2, int(16 * share))), experts=EXPERTS),
    Variant(name="shared_expert", method=lambda share: SharedExpert(), experts=EXPERTS),
)


_HIGHEST = re.compile(r"VmHWM:\s+(\d+)")  # KiB


def _lora(share: float, kind: type[Lora] = Lora) -> Lora:
    rank = int(128 * share)
    return kind(rank=rank, alpha=float(rank))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A UNet like SD2.1's."""

    share: float  # of its width
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    side: int  # latent cells
    layers: int = 2  # per block

    def unet(self) -> UNet2DConditionModel:
        config = SD21 | {"block_out_channels": self.widths, "attention_head_dim": self.heads}
        config |= {"layers_per_block": self.layers}
        with torch.device("meta"):
            empty = UNet2DConditionModel(**config)
        return empty.to_empty(device="cpu")


SD21_SHAPE = Shape(share=1.0, widths=(320, 640, 1280, 1280), heads=(5, 10, 20, 20), side=64)
HALF = Shape(share=0.5, widths=(160, 320, 640, 640), heads=(5, 10, 20, 20), side=32)
TENTH = Shape(share=0.1, widths=(32, 64, 128, 128), heads=(1, 2, 4, 4), side=16, layers=1)


def prepared(variant: Variant, base: UNet2DConditionModel, share: float) -> nn.Module:
    if variant.experts > 1:
        base = MaMoEUNet2DConditionModel.from_unet(base, num_experts=variant.experts)
    return variant.method(share).prepare(base, seed=0)


def counted(variant: Variant, shape: Shape) -> tuple[int, int]:
    """Trained weights, and bytes of the UNet in a checkpoint. Its weights are all zero and of two bytes, to fit."""
    base = shape.unet().half()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.zero_()
    unet = prepared(variant, base, shape.share)
    trained = sum(unet.get_parameter(name).numel() for name in trained_names(unet))
    alone = variant.method(shape.share).keeps_adapter_alone
    return trained, 4 * (trained if alone else sum(parameter.numel() for parameter in unet.parameters()))


class Training:
    """A method's UNet with all it needs for steps."""

    def __init__(self, variant: Variant, shape: Shape) -> None:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        self.unet = prepared(variant, _drawn(shape.unet()), shape.share).train()
        self.optimizer = torch.optim.AdamW([p for p in self.unet.parameters() if p.requires_grad], lr=1e-5)
        size = (shape.side, shape.side)
        self.noisy, self.noise = (torch.randn((1, 4, *size), generator=generator) for _ in range(2))
        shown = {Control.PICTURE: (1, 3, 8 * size[0], 8 * size[1]), Control.LATENT: (1, 4, *size)}
        form = control_of(self.unet)
        self.control = None if form is None else torch.rand(shown[form], generator=generator)
        self.inputs = _inputs(variant, shape, generator)

    def step(self) -> float:
        """Processor seconds."""
        start = time.process_time()
        prediction = predict(self.unet, self.noisy, torch.tensor([500]), self.inputs, self.control)
        F.mse_loss(prediction, self.noise).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start


def _drawn(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.uniform_(-0.02, 0.02)
    return unet


def _inputs(variant: Variant, shape: Shape, generator: torch.Generator) -> dict[str, Any]:
    def tokens(count: int) -> Tensor:
        return torch.randn((count, SD21["cross_attention_dim"]), generator=generator)

    if variant.experts == 1:
        return {"encoder_hidden_states": tokens(GLOBAL_TOKENS)[None]}
    embeds = [[tokens(n) for n in (GLOBAL_TOKENS, *itertools.repeat(REGION_TOKENS, REGIONS))]]
    regions = drawn_layouts(1, (shape.side, shape.side), generator)
    return conditioning_of(regions, embeds, len(shape.widths)).unet_inputs()


def peak(variant: Variant, shape: Shape) -> float:
    """MiB by which resident memory grows in two steps, in a process of their own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(variant, shape, theirs))
    process.start()
    theirs.close()  # so that a process that fails ends the wait
    grown = ours.recv()
    process.join()
    return grown


def _report_peak(variant: Variant, shape: Shape, pipe: Any) -> None:
    def highest() -> int:
        return int(_HIGHEST.search(Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    def forget() -> None:
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free, but not given back
        Path("/proc/self/clear_refs").write_text("5")  # what was highest so far: imports, making the UNet

    forget()
    before = highest()
    training = Training(variant, shape)
    forget()
    training.step()
    training.step()
    pipe.send((highest() - before) / 1024)


def time_ratio(variant: Variant, full: Training, shape: Shape, rounds: int) -> float:
    training = Training(variant, shape)
    ratios = [training.step() / full.step() for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])


def _said(shape: Shape) -> str:
    return f"{shape.share:g} of SD2.1's width, layers per block {shape.layers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a UNet a tenth as wide: under a minute")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, whole, rounds = (TENTH, TENTH, 3) if options.quick else (HALF, SD21_SHAPE, 3)

    peaks = {variant.name: peak(variant, shape) for variant in VARIANTS}  # before this process makes threads or UNets
    full = Training(VARIANTS[0], shape)
    cells = f"{shape.side}x{shape.side} latents"
    print(f"weights and bytes: {_said(whole)}; time and memory: {_said(shape)}, {cells}")
    print(f"{'method':<20}{'trained M':>10}{'saved MiB':>11}{'time':>8}{'memory':>8}")
    result = {}
    for variant in VARIANTS:
        trained, saved = counted(variant, whole)
        ratio = time_ratio(variant, full, shape, rounds)
        memory = peaks[variant.name] / peaks["full"]
        print(f"{variant.name:<20}{trained / 1e6:>10.2f}{saved / 2**20:>11.1f}{ratio:>8.2f}{memory:>8.2f}", flush=True)
        key = variant.name.replace(", ", "_").replace(" ", "_")
        result[key] = {
            "trained": trained,
            "saved_bytes": saved,
            "step_ratio": round(ratio, 3),
            "memory_ratio": round(memory, 3),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
