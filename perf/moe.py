"""How much a mixture of experts costs compared with the one dense feed-forward it replaces.

    python perf/moe.py [--quick] [--threads 1]

Forward and backward, fp32, 2 images, hard routing by class maps drawn as coherent patches with skewed shares. The timed
variants take turns, so that a busy machine slows them alike; a ratio is the median of the ratios of the rounds. Saved
activations are what autograd keeps for the backward pass, parameters left out. Yardstick: every expert computes every
cell and a one-hot product picks (``einsum``). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor

from mamoe.models.experts.moe import MoEFeedForward
from mamoe.vocabulary.conditioning import ExpertRouting

IMAGES = 2
SIZES = ((4096, 320), (1024, 640))  # cells, channels: the two finest levels of Stable Diffusion at 512x512
SHARES = {
    5: (0.45, 0.30, 0.15, 0.08, 0.02),
    10: (0.33, 0.24, 0.16, 0.10, 0.07, 0.04, 0.03, 0.015, 0.01, 0.005),
}


def coherent_classes(cells: int, shares: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Expert of every cell, i64[B*N]: a smooth random field cut at the quantiles that give the shares."""
    side = int(cells**0.5)
    field = torch.rand((IMAGES, 1, 8, 8), generator=generator)
    field = F.interpolate(field, size=(side, side), mode="bicubic").flatten()
    cuts = torch.tensor(shares).cumsum(0)[:-1]
    return torch.bucketize(field, torch.quantile(field, cuts))


def hard_routing(expert: Tensor, num_experts: int) -> ExpertRouting:
    ends = expert.bincount(minlength=num_experts).cumsum(0).int()
    return ExpertRouting(token=expert.argsort(stable=True), offsets=ends, weight=None)


def einsum_forward(moe: MoEFeedForward, x: Tensor, one_hot: Tensor) -> Tensor:
    """Every expert on every cell; ``one_hot`` f32[B N E] picks."""
    every = torch.stack([moe(x), *(expert(x) for expert in moe.experts.values())])
    return torch.einsum("ebnc,bne->bnc", every, one_hot)


def seconds(run: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    """Processor seconds, which neighbours on a busy machine disturb less than the clock."""
    start = time.process_time()
    run(x).backward(grad)
    return time.process_time() - start


def saved_bytes(run: Callable[[Tensor], Tensor], x: Tensor, parameters: set[int]) -> int:
    """Bytes autograd keeps for the backward pass, each storage counted once, parameters left out."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(x)
    total = sum(kept.values())
    del out
    return total


def measure(cells: int, channels: int, experts: int, rounds: int, *, yardstick: bool) -> dict[str, float]:
    """``dense`` in ms; ratios to it: ``time``, ``saved`` and, if asked for, ``einsum_time``, ``einsum_saved``."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    dense = FeedForward(channels)
    moe = MoEFeedForward(FeedForward(channels), experts)
    x = torch.randn((IMAGES, cells, channels), generator=generator).requires_grad_()
    grad = torch.randn(x.shape, generator=generator)
    expert = coherent_classes(cells, SHARES[experts], generator)
    routing = hard_routing(expert, experts)
    one_hot = F.one_hot(expert, experts).float().view(IMAGES, cells, experts)

    runs: dict[str, Callable[[Tensor], Tensor]] = {"dense": dense, "time": lambda h: moe(h, routing)}
    if yardstick:
        runs["einsum_time"] = lambda h: einsum_forward(moe, h, one_hot)
    ratios = {name: statistics.median(took) for name, took in _timed_in_turn(runs, x, grad, rounds).items()}

    parameters = {p.untyped_storage().data_ptr() for layer in (dense, moe) for p in layer.parameters()}
    memory = {name: saved_bytes(run, x, parameters) for name, run in runs.items()}
    for name, ratio_name in (("time", "saved"), ("einsum_time", "einsum_saved")):
        if name in memory:
            ratios[ratio_name] = memory[name] / memory["dense"]
    return ratios


def _timed_in_turn(
    runs: dict[str, Callable[[Tensor], Tensor]], x: Tensor, grad: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of "dense" and, for every other run, its ratio to the dense run of the same round."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            if name == "einsum_time" and turn not in (1, 3):
                continue  # slow, and two rounds tell enough of a factor of five
            measured = seconds(run, x, grad)
            if turn > 0:  # the first turn warms up
                took[name].append(measured * 1e3 if name == "dense" else measured * 1e3 / took["dense"][turn - 1])
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    result: dict[str, float] = {}
    print(f"{'cells':>6}{'channels':>9}{'experts':>8}{'dense ms':>9}{'moe':>7}{'saved':>7}{'einsum':>7}{'saved':>7}")
    for cells, channels in SIZES:
        for experts in SHARES:
            yardstick = experts == 5 or not options.quick
            got = measure(cells, channels, experts, 2 if options.quick else 9, yardstick=yardstick)
            row = [f"{got[key]:.2f}" if key in got else "-" for key in ("time", "saved", "einsum_time", "einsum_saved")]
            print(
                f"{cells:6d} {channels:8d} {experts:7d} {got['dense']:9.1f} "
                f"{row[0]:>6} {row[1]:>6} {row[2]:>7} {row[3]:>6}"
            )
            name = f"{cells}x{channels}_e{experts}"
            result[f"moe_{name}"] = got["time"]
            result[f"saved_e{experts}"] = max(got["saved"], result.get(f"saved_e{experts}", 0.0))
            if yardstick:
                result[f"einsum_{name}"] = got["einsum_time"]
                result[f"einsum_saved_e{experts}"] = got["einsum_saved"]
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
