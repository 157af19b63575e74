"""What fine-tuning and drawing cost on a GPU, each against its yardstick in the same process.

    python perf/gpu.py [--quick] [--only PART ...] [--profile FOLDER]

Stable Diffusion 2.1's shape with random weights, 512x512, bfloat16 autocast, 20 regions with prompts of 5 tokens. Every
time is the median of 9 rounds that take turns, with the smallest and the largest; ``host`` is when the host had given
its orders, ``device`` what the kernels of one round add up to, by torch's profiler. The last line is one JSON object.
`--profile` lists the kernels of every work by name. `--quick` runs the same on whatever there is, in float32 and with a
small UNet: a test of this script, not a measurement.

step      forward and backward of the stock UNet and of ours with 5, 10 and 20 experts
transformer  the same of PixArt-Sigma's transformer with 300 tokens, ours with 5 experts
train     steps of ``mamoe train``'s loop, against forward, backward and optimizer alone; where a step's time goes
train_recorded  the same with trainer.compile=graph
draw      20 steps with guidance, 1 and 4 pictures, LayoutPipeline against StableDiffusionPipeline; then with --fast
save      how long a checkpoint keeps a training waiting; ``room`` is made beside it before the first
recorded  a step of ours with 5 experts, trainer.compile=graph, against the stock one as written
compiled  the same with trainer.compile=full
draw_compiled  the most pictures of ``draw``, by --fast's recordings of a compiled UNet: is it worth the wait?
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from drawing import both_pipelines
from gpu_measuring import FULL, T5_TOKENS, Scale, compared, milliseconds, peak_gib, quick_scale, ratios
from lightning.pytorch import Callback
from loop_measuring import Enough, Numbers, StepClock, encoded_batch
from step import GLOBAL_TOKENS, REGION_TOKENS, REGIONS, conditioning_of, drawn_layouts, with_experts
from torch import Tensor, nn

from mamoe import LayoutPipeline, PanopticMap
from mamoe.diffusion.schedules import make_scheduler
from mamoe.machine.compiling import compiled_if_it_works
from mamoe.methods.lora import to_channels_last
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.experts.moe import prepare_experts
from mamoe.models.latents import LatentScaling
from mamoe.runs.recipe import Recipe, Terms
from mamoe.runs.source import Source
from mamoe.sampling.fast import speed_up
from mamoe.training.loop.beside import HostCopies
from mamoe.training.loop.fit import Keeping, Watching, fit
from mamoe.training.optim import make_adam
from mamoe.training.optim.clipping import divisor, global_norm
from mamoe.training.optim.ema import WeightAverage
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.parts import Compiled, Networks, Objective, Optimization
from mamoe.training.step.recorded import recorded_if_it_works, uncached_autocast
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy


def stock_unet(scale: Scale) -> UNet2DConditionModel:
    torch.manual_seed(0)
    with scale.device:
        return UNet2DConditionModel(**scale.unet).train()


def layouts(scale: Scale, experts: int) -> RegionBatch:
    """The tables of a batch; the shares of the experts halve until every class has 2 %."""
    shares = torch.tensor([max(0.02, 0.5 ** (i + 1)) for i in range(experts)])
    return drawn_layouts(scale.batch, (scale.cells, scale.cells), torch.Generator().manual_seed(0), shares)


def embeddings(batch: int, width: int, tokens: int = GLOBAL_TOKENS) -> list[list[Tensor]]:
    """Those of a batch's regions, the global prompt first."""
    return [[torch.randn(n, width) for n in (tokens, *[REGION_TOKENS] * REGIONS)] for _ in range(batch)]


def conditioned(regions: RegionBatch, embeds: list[list[Tensor]], network: nn.Module, device: torch.device) -> Any:
    """What `mamoe train` does per step: embeddings from the host, masks and routings on the device."""
    pyramid = pyramid_of(network)
    return conditioning_of(regions.to(device), embeds, pyramid.count, pyramid.skipped)


def forward_backward(unet: nn.Module, inputs: dict[str, Any], scale: Scale, noisy: Tensor) -> None:
    timesteps = torch.full((scale.batch,), 500, device=scale.device)
    with torch.autocast(scale.device.type, torch.bfloat16, enabled=scale.autocast):
        output = unet(noisy, timestep=timesteps, **inputs).sample
    F.mse_loss(output[:, : noisy.shape[1]].float(), noisy).backward()  # PixArt guesses a variance too


def steps_of(
    scale: Scale, experts: int, stock: nn.Module, tokens: int = GLOBAL_TOKENS
) -> tuple[nn.Module, dict[str, Callable[[], object]]]:
    """Our network, and a step of it beside one of the stock network, which reads the global prompt of ``tokens``."""
    noisy = torch.randn((scale.batch, 4, scale.cells, scale.cells), device=scale.device)
    embeds = embeddings(scale.batch, backbone_of(stock).text_width(stock.config), tokens)  # type: ignore[arg-type]
    prompt = torch.stack([picture[0] for picture in embeds]).to(scale.device)

    def work(unet: nn.Module, weights: list[nn.Parameter], inputs: dict[str, Any]) -> None:
        forward_backward(unet, inputs, scale, noisy)
        for weight in weights:  # as an optimizer does it, which looks for them once
            weight.grad = None

    ours = with_experts(stock, experts).to(scale.device).train()  # type: ignore[arg-type]
    prepare_experts(ours)
    inputs = conditioned(layouts(scale, experts), embeds, ours, scale.device).unet_inputs()
    stock_step = functools.partial(work, stock, list(stock.parameters()), {"encoder_hidden_states": prompt})
    return ours, {"stock": stock_step, "ours": functools.partial(work, ours, list(ours.parameters()), inputs)}


def step(scale: Scale) -> dict[str, Any]:
    stock, found = stock_unet(scale), {}
    for experts in scale.experts:
        _, works = steps_of(scale, experts, stock)
        both = compared(works, scale, f"step-{experts}")
        memory = {f"{name}_gib": peak_gib(work, scale.device) for name, work in works.items()}
        found[f"experts_{experts}"] = {**ratios(both), **memory}
    return found


def transformer(scale: Scale) -> dict[str, Any]:
    torch.manual_seed(0)
    with scale.device:
        stock = PixArtTransformer2DModel(**scale.transformer).train()
    _, works = steps_of(scale, scale.experts[0], stock, T5_TOKENS)
    both = compared(works, scale, "transformer")
    return {**ratios(both), **{f"{name}_gib": peak_gib(work, scale.device) for name, work in works.items()}}


def recorded(scale: Scale) -> dict[str, Any]:
    """The UNet's passes recorded, its channels last in memory, against the stock one as written."""
    stock = stock_unet(scale)
    ours, works = steps_of(scale, scale.experts[0], copy.deepcopy(stock))
    _, plain = steps_of(scale, scale.experts[0], stock)
    works["stock"] = plain["stock"]
    to_channels_last(ours)
    began = time.perf_counter()
    problem = recorded_if_it_works(ours, works["ours"], added_up=False) if scale.autocast else "not tried here"
    if problem is not None:
        return {"problem": problem}
    took = time.perf_counter() - began
    return {
        **ratios(compared(works, scale, "recorded")),
        "gib": peak_gib(works["ours"], scale.device),
        "recording_s": took,
    }


def compiled(scale: Scale) -> dict[str, Any]:
    """The whole UNet compiled, and then recorded, against the stock one as written."""
    ours, works = steps_of(scale, scale.experts[0], stock_unet(scale))
    began = time.perf_counter()
    with uncached_autocast(scale.device):
        problem = compiled_if_it_works([ours], works["ours"]) if scale.autocast else "not tried here"
    if problem is not None:
        return {"problem": problem}
    took = time.perf_counter() - began
    problem = recorded_if_it_works(ours, works["ours"], added_up=False)
    return {
        **ratios(compared(works, scale, "compiled")),
        "gib": peak_gib(works["ours"], scale.device),
        "compiling_s": took,
        "not_recorded": problem,
    }


def train(scale: Scale, compile: Compiled = "off") -> dict[str, Any]:
    experts = scale.experts[0]
    unet = with_experts(stock_unet(scale), experts).to(scale.device).train()
    if compile == "graph":
        to_channels_last(unet)
    prepare_experts(unet)
    regions, embeds = layouts(scale, experts), embeddings(scale.batch, scale.unet["cross_attention_dim"])
    noisy = torch.randn((scale.batch, 4, scale.cells, scale.cells), device=scale.device)
    inputs = conditioned(regions, embeds, unet, scale.device).unet_inputs()
    optimizer, average = make_adam(unet.parameters()), WeightAverage({"unet": unet}, 0.999)
    weights = list(unet.parameters())

    def bare() -> None:
        forward_backward(unet, inputs, scale, noisy)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    forward_backward(unet, inputs, scale, noisy)  # leaves gradients for the pieces
    pieces = {
        "conditioning": lambda: conditioned(regions, embeds, unet, scale.device),
        "clipping": lambda: divisor(global_norm([weight.grad for weight in weights]), 0.5),  # by the optimizer
        "optimizer": optimizer.step,
        "average": average.update,
    }
    found: dict[str, Any] = {"pieces": compared(pieces, scale, "train")}
    optimizer.zero_grad(set_to_none=True)
    bare_alone: dict[str, Any] = compared({"bare": bare}, scale, "train")["bare"]
    del optimizer, average

    clock = StepClock(scale.device)
    steps = 12 + 2 * scale.rounds
    looped(scale, unet, regions, embeds, [clock], steps, compile)
    # The device's pace: from the tenth step to the last but one, over the steps in between.
    loop = clock.pace(10, steps - 1)
    return {**found, "bare": bare_alone, "loop": {"ms": loop}, "pace": bare_alone["ms"] / loop}


def looped(
    scale: Scale,
    unet: nn.Module,
    regions: RegionBatch,
    embeds: list[list[Tensor]],
    callbacks: Sequence[Callback],
    steps: int,
    compile: Compiled = "off",
) -> None:
    """Steps of `mamoe train`'s loop, all of one batch; ends early where a callback raises :class:`Enough`."""

    def condition(own: RegionBatch, device: torch.device, dtype: torch.dtype) -> Any:
        return conditioned(own, embeds, unet, device)

    module = DiffusionModule(
        Networks(
            unet=unet,
            vae=None,
            scaling=LatentScaling(factor=0.18),
            text_encoder=None,
            conditioner=condition,
            compile=compile,
        ),
        Objective(scheduler=make_scheduler("v", zero_snr=True), prompt_dropout=0.0),
        Optimization(optimizer=make_adam, ema_decay=0.999),
    )
    settings = LayoutSettings(taxonomy=Taxonomy.load("cityscapes"))
    collate = functools.partial(encoded_batch, regions=regions, cells=scale.cells)
    data = LayoutDataModule(train=Numbers(), collate=collate, batch_size=scale.batch)  # type: ignore[arg-type]
    precision = "bf16-mixed" if scale.autocast else "32-true"
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        fit(
            module,
            data,
            Path(folder),
            max_steps=steps,
            recipe=Recipe(base=Source(path="random"), scheduler={}, terms=Terms(layout=settings)),
            keeping=Keeping(every_n_steps=10 * steps),
            watching=Watching(callbacks=callbacks),
            trainer={"accelerator": scale.device.type, "devices": 1, "precision": precision, "gradient_clip_val": 0.5},
        )


def drawings_of(
    scale: Scale,
) -> tuple[LayoutPipeline, tuple[int, int], dict[int, dict[str, Callable[[], object]]]]:
    """Our pipeline, the size of its pictures, and for each number of pictures the drawing of both pipelines."""
    plain, ours = both_pipelines(stock_unet(scale).eval(), scale, "things", 4, shared=False)
    side = 8 * scale.cells
    segment = np.kron(np.arange(16).reshape(4, 4), np.ones((side // 4, side // 4), dtype=np.int64))
    layout = PanopticMap(segment_id=segment.astype(np.int32), class_id=segment.astype(np.uint8))
    given = {"num_inference_steps": scale.steps, "guidance_scale": 4.0}
    works = {
        count: {
            "stock": functools.partial(plain, ["a street"] * count, height=side, width=side, **given),
            "ours": functools.partial(ours, ["a street"] * count, [layout] * count, **given),
        }
        for count in scale.pictures
    }
    return ours, (side, side), works


def draw(scale: Scale) -> dict[str, Any]:
    ours, size, works_of = drawings_of(scale)
    found: dict[str, Any] = {}
    for count, works in works_of.items():
        memory = {f"{name}_gib": peak_gib(work, scale.device) for name, work in works.items()}
        found[f"pictures_{count}"] = {**ratios(compared(works, scale, f"draw-{count}", profiled=False)), **memory}
    if scale.device.type == "cuda":
        problems: list[str] = []
        speed_up(ours, size, problems.append)
        for count, works in works_of.items():
            fast = ratios(compared(works, scale, f"fast-{count}", profiled=False))
            found[f"fast_{count}"] = {**fast, "gib": peak_gib(works["ours"], scale.device), "problems": problems}
    return found


def draw_compiled(scale: Scale) -> dict[str, Any]:
    """The most pictures, by recordings of a compiled UNet."""
    ours, size, works_of = drawings_of(scale)
    works = works_of[scale.pictures[-1]]
    began, problems = time.perf_counter(), []
    problem = compiled_if_it_works([ours.unet], works["ours"]) if scale.autocast else "not tried here"
    if problem is not None:
        return {"problem": problem}
    speed_up(ours, size, problems.append)
    took = time.perf_counter() - began
    return {
        **ratios(compared(works, scale, "draw-compiled", profiled=False)),
        "compiling_s": took,
        "problems": problems,
    }


def save(scale: Scale) -> dict[str, Any]:
    unet = with_experts(stock_unet(scale), scale.experts[0]).to(scale.device)
    optimizer = make_adam(unet.parameters())
    for parameter in unet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {"unet": unet.state_dict(), "average": unet.state_dict(), "trainer": optimizer.state_dict()["state"]}
    copies = HostCopies()
    began = time.perf_counter()
    copies.prepare(state)  # which a training does from its first step on
    fits = copies.fit(state)  # waits for it
    room = time.perf_counter() - began
    taken = [milliseconds(lambda: copies.of(state), scale.device)[0] / 1000 for _ in range(3)]
    return {"room_s": room, "first_s": taken[0], "later_s": taken[-1], "fits": fits}


PARTS = {
    "step": step,
    "transformer": transformer,
    "train": train,
    "train_recorded": functools.partial(train, compile="graph"),
    "draw": draw,
    "save": save,
    "recorded": recorded,
    "compiled": compiled,
    "draw_compiled": draw_compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small UNet on whatever there is: a test of the script")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="where the kernels of every work are listed")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        parser.error("there is no GPU here; --quick runs without one")
    scale = replace(quick_scale() if options.quick else FULL, profile=options.profile)
    name = torch.cuda.get_device_name() if scale.device.type == "cuda" else "cpu"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "quick": options.quick}
    for part in options.only:
        began = time.perf_counter()
        result[part] = rounded(PARTS[part](scale))
        print(f"{part}: {time.perf_counter() - began:.0f} s", json.dumps(result[part]))
        if scale.device.type == "cuda":
            torch.cuda.empty_cache()
    print(json.dumps(result))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
