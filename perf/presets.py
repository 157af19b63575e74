"""Proves the presets by memory: trains with each of them in no more of a GPU than its name says.

    python perf/presets.py [--quick] [--at-once 5] [--only 12 16 24 48 80] [--networks sd21 sdxl] [--steps 12]

Every preset and network is a process of its own, which may take as much of the GPU as a card of that size has left
beside CUDA's own half gigabyte. It makes a network of the real shape with random weights, then what `mamoe train
experiment=mamoe trainer=gpu_…gb cache.latents=true` makes of it, and does ``steps`` optimizer steps of its loop on
layouts of 20 regions, then what a validation does with the last batch. A line says what was held at most, in the steps
and in all, and the pace from the fourth step on; the last line is one JSON object. The exit code is 1 where one did not
fit. `--at-once` lets several be made side by side, as many as the card has room for by their names, while one of them
at a time does its steps. `--quick` runs the same on a CPU with small networks, where nothing is held to a size: a test
of this script.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from gpu_measuring import SMALL, settle
from lightning.pytorch import Callback
from lightning.pytorch.strategies import Strategy
from loop_measuring import Enough, Numbers, encoded_batch
from step import GLOBAL_TOKENS, REGION_TOKENS, SD21, drawn_layouts
from torch import Tensor, nn

from gpu import rounded
from mamoe.assemble.data import layout_settings
from mamoe.assemble.loss import loss_of
from mamoe.assemble.model import objective_scheduler, training_module
from mamoe.bases.pretrained import BaseModel, load_base
from mamoe.conditioning.text import EncodedPrompt
from mamoe.config.compose import compose
from mamoe.config.train import Train
from mamoe.machine.garbage import look_rarely
from mamoe.machine.memory import GPU_PRESETS
from mamoe.machine.skeleton import without_memory
from mamoe.runs.recipe import Recipe, Terms
from mamoe.training.loop.beside import HostCopies
from mamoe.training.loop.fit import Keeping, Watching, fit
from mamoe.training.loop.saving import Checkpoints
from mamoe.training.loop.steps import stepped
from mamoe.training.optim import check_installed
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule
from mamoe.training.watch.validation import evaluating
from mamoe.vocabulary.batch import RegionBatch

GIB = 2**30
CUDA_ITSELF = 0.5  # GiB of a card that no tensor can have
DIVISOR = 64  # pixels: the coarsest level of Stable Diffusion's UNet has cells so large
WARM = 3  # steps before the pace is taken
EIGHT_BITS = 24  # the preset whose table names optimizer=adamw_8bit beside it, for experiment=mamoe brings Adam
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL_XL = {
    **SMALL,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
NETWORKS = {"sd21": (SD21, SMALL), "sdxl": (SDXL, SMALL_XL)}
# What is said beside a preset: SDXL's experts are copies of 1,230 M weights each, which only low rank leaves room for.
WORDS = {
    "sd21": ["model=sd21"],
    "sdxl": ["model=sdxl", "objective.prediction=null", "objective.zero_snr=null", "method=lora_experts"],
}


class Embeddings:
    """In the text encoders' place: prompts of as many random numbers as theirs have."""

    words_end = None  # they have no places

    def __init__(self, unet: dict[str, Any]) -> None:
        self.width = unet["cross_attention_dim"]
        sizes = 6 * unet.get("addition_time_embed_dim", 0)
        self.pooled = unet["projection_class_embeddings_input_dim"] - sizes if sizes else None

    def encode(self, prompts: Sequence[str], padded: bool) -> list[Tensor]:
        return [torch.randn(REGION_TOKENS, self.width) for _ in prompts]

    def encode_whole(self, prompts: Sequence[str]) -> list[EncodedPrompt]:
        return [self._whole() for _ in prompts]

    def num_tokens(self, prompt: str) -> int:
        return GLOBAL_TOKENS

    def without_padding(self, prompt: str, tokens: Tensor) -> Tensor:
        return tokens

    def _whole(self) -> EncodedPrompt:
        pooled = None if self.pooled is None else torch.randn(self.pooled)
        return EncodedPrompt(tokens=torch.randn(GLOBAL_TOKENS, self.width), pooled=pooled)


def drawn(network: nn.Module, device: torch.device) -> None:
    """Give a network without memory random weights that keep what passes through in bounds, made where they stay.

    So the device never holds more than the network itself, as with `mamoe train`, which makes it in the host's memory.
    """
    assert not list(network.buffers()), "only weights are drawn"
    network.to_empty(device=device)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(float(name.endswith("weight")))  # norms and biases


class Turn(Callback):
    """The device to oneself from the first step to the last; then what a validation holds, and no checkpoint."""

    def __init__(self, device: torch.device, lock: Path | None, steps: int) -> None:
        self._device, self._lock, self._steps = device, lock, steps
        self._began, self._held = 0.0, None
        self.seconds = 0.0  # of a step, from the one after ``WARM`` on
        self.peak_gib: float | None = None  # of the steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._lock is not None:
            self._held = self._lock.open("w")  # which ends with the process, however that ends
            fcntl.flock(self._held, fcntl.LOCK_EX)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer, batch_idx) or trainer.global_step not in (WARM, self._steps):
            return
        settle(self._device)
        if trainer.global_step == WARM:
            self._began = time.perf_counter()
            return
        self.seconds = (time.perf_counter() - self._began) / (self._steps - WARM)
        self.peak_gib = peak_gib(self._device)
        with torch.no_grad(), evaluating(trainer, pl_module, use_ema=True):
            pl_module.training_step(batch, batch_idx)
        settle(self._device)
        if self._held is not None:
            self._held.close()
        raise Enough


def peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None


def configured(preset: int, network: str, *more: str) -> Train:
    """The configuration of a training with the preset."""
    words = [
        f"trainer=gpu_{preset}gb",
        "experiment=mamoe",
        *WORDS[network],
        "cache.latents=true",
        "data.crop=center",
        "data.root=.",
    ]
    if preset == EIGHT_BITS:
        words.append("optimizer=adamw_8bit")
    return Train.model_validate(compose([*words, *more]))


def made(config: Train, shape: dict[str, Any], steps: int = 1) -> tuple[DiffusionModule, BaseModel]:
    """What the configuration makes of a UNet of ``shape`` without memory; what it does not hold in its steps is the
    tiny model's.
    """
    tiny = load_base("package:tiny")
    with without_memory():
        unet = UNet2DConditionModel(**shape)
    base = BaseModel(source=tiny.source, unet=unet, vae=tiny.vae, scheduler=tiny.scheduler, text=tiny.text)
    scheduler, settings = objective_scheduler(config, base.scheduler), layout_settings(config)
    prompts: Any = Embeddings(shape)
    return training_module(config, base, scheduler, settings, loss_of(config, base), steps, prompts), base


def layouts_of(config: Train, cells: int) -> RegionBatch:
    """Layouts of 20 regions for a batch of pictures of ``cells`` a side."""
    shares = torch.tensor([0.5**k for k in range(1, layout_settings(config).num_experts + 1)])
    return drawn_layouts(config.data.batch_size, (cells, cells), torch.Generator().manual_seed(0), shares)


def trained(
    preset: int, network: str, *, side: int, steps: int, quick: bool, lock: Path | None = None
) -> dict[str, Any]:
    """A training with the preset: what it held and its pace, or what it lacks."""
    device = torch.device("cpu" if quick else "cuda")
    plain = ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.gpu_gib=null", "optimizer=adam"]
    config = configured(preset, network, *(plain if quick else ()))
    check_installed(str(config.optimizer.get("_target_")))
    if not quick:
        whole = torch.cuda.get_device_properties().total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, (preset - CUDA_ITSELF) / whole))
    module, base = made(config, NETWORKS[network][quick], steps)
    torch.manual_seed(0)
    drawn(module.unet, device)
    cells, batch = side // 8, config.data.batch_size
    regions = layouts_of(config, cells)
    data = LayoutDataModule(
        train=Numbers(),  # type: ignore[arg-type]
        collate=functools.partial(encoded_batch, regions=regions, cells=cells),  # type: ignore[arg-type]
        batch_size=batch,
    )
    turn = Turn(device, lock, steps)
    own = config.trainer
    # No checkpoint is written here: no room is made for one, which is up to 23 GB of the host's memory, and Lightning
    # need not move all there when it ends.
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(HostCopies, "prepare"),
        patch.object(Checkpoints, "save_unfinished"),
        patch.object(Strategy, "teardown"),
        contextlib.suppress(Enough),
    ):
        fit(
            module,
            data,
            Path(folder),
            max_steps=steps + 1,
            recipe=Recipe(base=base.source, scheduler={}, terms=Terms(layout=layout_settings(config))),
            keeping=Keeping(every_n_steps=10 * steps),
            watching=Watching(callbacks=[turn]),
            trainer={
                "accelerator": own.accelerator,
                "devices": 1,
                "precision": own.precision,
                "gradient_clip_val": own.gradient_clip_val,
                "accumulate_grad_batches": own.accumulate_grad_batches,
            },
        )
    return {
        "fits": True,
        "images_per_s": batch * own.accumulate_grad_batches / turn.seconds,
        "step_gib": turn.peak_gib,
        "allocated_gib": peak_gib(device),
        "reserved_gib": None if quick else torch.cuda.max_memory_reserved() / GIB,
        "method": config.method.name,
        "optimizer": str(config.optimizer["_target_"]).rpartition(".")[2],
        "batch": f"{batch} x {own.accumulate_grad_batches}",
    }


class Room:
    """GiB of a card, given out and taken back."""

    def __init__(self, gib: float) -> None:
        self._gib = self._left = gib
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, size: float) -> Iterator[None]:
        """Waits until there is room for ``size``; of more than the whole card, for that."""
        taken = min(size, self._gib)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= taken)
            self._left -= taken
        try:
            yield
        finally:
            with self._changed:
                self._left += taken
                self._changed.notify_all()


def in_a_process(preset: int, network: str, room: Room, lock: Path, timeout: float) -> dict[str, Any]:
    """What :func:`trained` says, or why it said nothing."""
    command = [*sys.argv, "--one", "--only", str(preset), "--networks", network, "--lock", str(lock)]
    polite = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the command line sets it
    with room.of(preset):
        try:
            done = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, check=False, env=polite, timeout=timeout
            )
        except subprocess.TimeoutExpired:  # and is killed
            return {"fits": False, "problem": f"not done after {timeout:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    said = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
    return {"fits": False, "problem": said[0]}


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What can be asked of presets and networks, with or without a GPU."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks on the CPU: a test of the script")
    parser.add_argument("--only", nargs="+", type=int, choices=GPU_PRESETS, default=list(GPU_PRESETS))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--side", type=_whole_cells, default=512, help="pixels along a side")
    return parser


def _whole_cells(text: str) -> int:
    if int(text) <= 0 or int(text) % DIVISOR:
        raise argparse.ArgumentTypeError(f"pictures are a multiple of {DIVISOR} pixels wide and high, got {text}")
    return int(text)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=1, help="how many are made side by side")
    parser.add_argument("--timeout", type=float, default=120, help="seconds until one is given up")
    parser.add_argument("--one", action="store_true", help="in this process: one preset, one network")
    parser.add_argument("--lock", type=Path, help="a file that is held during the steps")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        parser.error("there is no GPU here; --quick runs without one")
    sizes = {"side": 32 if options.quick else options.side, "steps": options.steps, "quick": options.quick}
    if options.one:
        look_rarely()  # as the command line does
        print(json.dumps(trained(options.only[0], options.networks[0], **sizes, lock=options.lock)))
        return 0
    room = Room(200 if options.quick else torch.cuda.get_device_properties().total_memory / GIB)
    jobs = [(preset, network) for preset in sorted(options.only, reverse=True) for network in options.networks]
    found: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(options.at_once) as pool:
        place, began = Path(lock.name), time.perf_counter()
        waiting = {pool.submit(in_a_process, *job, room, place, options.timeout): job for job in jobs}
        for done in as_completed(waiting):
            preset, network = waiting[done]
            found[f"{network}_{preset}"] = rounded(done.result())
            said = json.dumps(found[f"{network}_{preset}"])
            print(f"{time.perf_counter() - began:4.0f} s: {network} in {preset} GB:", said, flush=True)
    print(json.dumps(found))
    return int(not all(one["fits"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
