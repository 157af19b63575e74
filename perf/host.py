"""What the host does for a step, ours against stock, where kernels cost next to nothing: no GPU is needed.

    python perf/host.py [--quick] [--rounds 15]

Stable Diffusion 2.1's depth, every block and layer of it, 32 channels wide and on 8x8 latents, on one core. What
a step takes is then Python, dispatcher and autograd, which on a GPU order the kernels. ``operators`` are those that
reach a kernel, views among them: exact, and the same in every run. ``ms`` is processor time, the least of rounds that
take turns. Kernels of a CPU are not free, so a difference in ms says more than the ratio.

train     forward and backward of one picture, 5 experts, 20 regions, bfloat16 autocast; ``conditioned`` with masks and
          routings made in the step, ``conditioning`` these alone
loop      a step of `mamoe train`'s loop (``ours``) against forward, backward and optimizer alone (``stock``), with
          masks, noise, clipping, average and everything that Lightning and callbacks do; then where its time goes,
          by cProfile, which makes Python dearer than it is
draw      one denoising step with guidance, LayoutPipeline against StableDiffusionPipeline in bfloat16: a picture of
          many steps less one of few, by the steps in between; ``picture`` is what it takes besides

The CPU takes the way of a GPU: experts by grouped products (which only make room for their result here), norms widened
by autocast as CUDA's does it. Attention is the CPU's own kernel, which like CUDA's turns a boolean mask into numbers.
``--quick`` is a test of the script: one round. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import itertools
import json
import math
import pstats
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from gpu_measuring import FULL, Scale
from lightning.pytorch import Callback
from loop_measuring import Enough
from step import SD21, with_experts
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gpu import (
    conditioned,
    drawings_of,
    embeddings,
    forward_backward,
    layouts,
    looped,
    steps_of,
    stock_unet,
)
from mamoe.models.experts.moe import prepare_experts
from mamoe.training.optim import make_adam

NARROW = {
    **SD21,
    "block_out_channels": (32,) * 4,
    "attention_head_dim": 1,
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
}
SCALE = replace(
    FULL,
    unet=NARROW,
    batch=1,
    cells=8,
    experts=(5,),
    pictures=(1,),
    steps=8,
    vae_widths=(8, 8, 8, 8),
    device=torch.device("cpu"),
)
FEW = 2  # denoising steps
WARM = 4  # steps of a loop before those that count
PIECES = {  # of a step, by the functions that do them
    "conditioning": "module.py:_condition",
    "noise": "draws.py:training_draws",
    "posterior": "module.py:encode",
    "network": "call.py:predict",
    "backward": "graph.py:_engine_run_backward",
    "clipping": "clipping.py:global_norm",
    "verdict": "finite.py:look_later",
    "optimizer": "adam.py:adam",
    "its lists": "adam.py:_init_group",
    "average": "ema.py:update",
    "gradients away": "optimizer.py:zero_grad",
    "batches": "loaders.py:__iter__",
    "callbacks": "call.py:_call_callback_hooks",
    "module's hooks": "module.py:on_train_batch_start",
}
Works = dict[str, Callable[[], object]]


class Counting(TorchDispatchMode):
    """Counts the operators that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(work: Callable[[], object]) -> Counter[str]:
    work()  # what is made once
    with Counting() as counting:
        work()
    return counting.of


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """The CPU takes the ways that the package and autocast take on a GPU."""
    layer_norm, group_norm = F.layer_norm, F.group_norm

    def widened(*given: Any) -> list[Any]:
        return [one.float() if isinstance(one, Tensor) and torch.is_autocast_enabled("cpu") else one for one in given]

    def wide_layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        return layer_norm(*widened(x, shape, weight, bias, eps))

    def wide_group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        return group_norm(*widened(x, groups, weight, bias, eps))

    def room(rows: Tensor, weights: Tensor, *, offs: Tensor) -> Tensor:
        shape = (len(offs), len(rows), weights.shape[1]) if weights.dim() == 2 else (len(rows), weights.shape[2])
        return rows.new_zeros(shape)

    def widens_norms(device: torch.device) -> bool:
        return torch.is_autocast_enabled("cpu")

    with (
        patch.object(F, "layer_norm", wide_layer_norm),
        patch.object(F, "group_norm", wide_group_norm),
        patch.object(F, "grouped_mm", room),
        patch("mamoe.models.experts.grouped.grouped_suits", lambda rows: True),
        patch("mamoe.models.blocks.norms.widens_norms", widens_norms),
        patch("mamoe.models.blocks.casting.widens_norms", widens_norms),
        patch("mamoe.training.step.module.works_ahead", lambda device: True),
    ):
        yield


def milliseconds(works: Works, rounds: int) -> dict[str, float]:
    """Processor time of every work, the least of rounds in which they take turns: what disturbs makes it longer."""
    taken = dict.fromkeys(works, math.inf)
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            work()
            taken[name] = min(taken[name], 1000 * (time.process_time() - began))
    return taken


def training(scale: Scale) -> Works:
    stock = stock_unet(scale)
    ours, works = steps_of(scale, 5, stock)
    regions, embeds = layouts(scale, 5), embeddings(scale.batch, scale.unet["cross_attention_dim"])
    return {**works, "conditioning": functools.partial(conditioned, regions, embeds, ours, scale.device)}


def train(scale: Scale) -> dict[str, Any]:
    works = training(scale)
    counts = {name: operators(work).total() for name, work in works.items()}
    found = pairs(counts, milliseconds(works, scale.rounds))
    for of in found.values():
        of["conditioned_ratio"] = (of["ours"] + of["conditioning"]) / of["stock"]
    return found


class Steps(Callback):
    """Calls ``ended`` after every step that counts, and ends the loop after ``rounds`` of them."""

    def __init__(self, rounds: int, ended: Callable[[], object]) -> None:
        self.rounds, self.ended = rounds, ended

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= WARM:
            self.ended()
        if trainer.global_step == WARM + self.rounds:
            raise Enough


def loop(scale: Scale) -> dict[str, Any]:
    """A step of the loop against its bare one; ``where`` are the milliseconds of its pieces."""
    unet = with_experts(stock_unet(scale)).train()
    prepare_experts(unet)
    regions, embeds = layouts(scale, 5), embeddings(scale.batch, scale.unet["cross_attention_dim"])
    bare = bare_step(scale, unet, conditioned(regions, embeds, unet, scale.device).unet_inputs())
    counts: dict[str, Any] = {"stock": operators(bare).total()}
    taken = milliseconds({"stock": bare}, scale.rounds)

    def run(rounds: int, ended: Callable[[], object]) -> None:
        looped(scale, unet, regions, embeds, [Steps(rounds, ended)], 1000)

    ends: list[float] = []
    run(scale.rounds, lambda: ends.append(1000 * time.process_time()))
    taken["ours"] = min(later - earlier for earlier, later in itertools.pairwise(ends))
    so_far: list[int] = []
    with Counting() as counting:
        run(3, lambda: so_far.append(counting.of.total()))
    counts["ours"] = statistics.median(later - earlier for earlier, later in itertools.pairwise(so_far))
    profile = cProfile.Profile(time.process_time)  # of every thread; neighbours on a busy machine do not count
    calls = iter([profile.enable, *[lambda: None] * (scale.rounds - 1), profile.disable])
    run(scale.rounds, lambda: next(calls)())
    return {**pairs(counts, taken), "where": pieces(pstats.Stats(profile), scale.rounds)}


def bare_step(scale: Scale, unet: nn.Module, inputs: dict[str, Any]) -> Callable[[], object]:
    optimizer = make_adam(unet.parameters())
    noisy = torch.randn((scale.batch, 4, scale.cells, scale.cells))

    def bare() -> None:
        forward_backward(unet, inputs, scale, noisy)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return bare


def pieces(stats: Any, rounds: int) -> dict[str, float]:
    """Milliseconds of a step by :data:`PIECES`, and what is left."""
    taken = dict.fromkeys(PIECES, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items():
        for piece, function in PIECES.items():
            if f"{file}:{name}".endswith(f"/{function}"):
                taken[piece] += 1000 * cumulative / rounds
    return {**taken, "the rest": 1000 * stats.total_tt / rounds - sum(taken.values())}


def draw(scale: Scale) -> dict[str, Any]:
    """Pictures of few steps and of many, ``scale.steps``."""
    many = scale.steps
    works = {steps: drawings_of(replace(scale, steps=steps))[2][1] for steps in (FEW, many)}
    flat: Works = {f"{name}-{steps}": work for steps, both in works.items() for name, work in both.items()}
    counts = {name: operators(work).total() for name, work in flat.items()}
    step, picture = {}, {}
    for unit, of in (("operators", counts), ("ms", milliseconds(flat, scale.rounds))):
        each = {name: (of[f"{name}-{many}"] - of[f"{name}-{FEW}"]) / (many - FEW) for name in ("stock", "ours")}
        rest = {name: of[f"{name}-{FEW}"] - FEW * each[name] for name in each}
        step[unit], picture[unit] = with_ratio(each), with_ratio(rest)
    return {"step": step, "picture": picture}


def pairs(counts: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    return {"operators": with_ratio(counts), "ms": with_ratio(taken)}


def with_ratio(of: dict[str, Any]) -> dict[str, Any]:
    return {**of, "ratio": of["ours"] / of["stock"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: a test of the script")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scale = replace(SCALE, rounds=1, steps=3) if options.quick else replace(SCALE, rounds=options.rounds)
    with as_on_a_gpu():
        trained, around, drawn = train(scale), loop(scale), draw(scale)
    where = around.pop("where")
    rows = {"train": trained, "loop": around, "draw, a step": drawn["step"], "draw, the rest": drawn["picture"]}
    print(f"{'':>16}{'unit':>11}{'stock':>10}{'ours':>10}{'ratio':>8}")
    for name, row in rows.items():
        for unit, of in row.items():
            print(f"{name:>16}{unit:>11}{of['stock']:10.1f}{of['ours']:10.1f}{of['ratio']:8.3f}")
    print("a step of the loop, ms:", ", ".join(f"{name} {taken:.1f}" for name, taken in where.items()))
    found = {"train": trained, "loop": {**around, "where": where}, "draw": drawn}
    print(json.dumps({"torch": torch.__version__, "quick": options.quick, **found}))


if __name__ == "__main__":
    main()
