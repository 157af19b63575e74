"""Reckons what the presets hold of a GPU's memory, without a GPU and without the memory.

    python perf/reckon.py [--quick] [--only 12 16 24 48 80] [--networks sd21 sdxl] [--side 512] [--batch 4]

The training that `perf/presets.py` proves on a GPU is made of weights that have sizes and no numbers, and does two
micro-batches: what there is of weights, moments and average, of gradients and of what lies between the layers is
counted whenever something comes or goes. Gradients are there from the step before until the forward pass has ended, as
Lightning has it. What a GPU's libraries take for themselves is not in it (half a gigabyte, and some for convolutions),
nor are grids and scores. Of `gpu_80gb` and `gpu_48gb` it says 37.3 and 33.6 GiB, and an H200 held 37.5 and 33.9.

A line for each; the last line is one JSON object, in GiB. `--quick` takes small networks: a test of this script.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from presets import GIB, NETWORKS, configured, layouts_of, made, parser_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu import rounded
from mamoe.config.train import Train
from mamoe.models.control.call import predict
from mamoe.training.step.module import DiffusionModule

_BLOCK = 512  # bytes: what a tensor has on a GPU is a multiple
_PLAIN, _EIGHT_BITS = 8, 2  # bytes of moments a weight


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made meanwhile, for as long as they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}  # of memories, by their address

    def add(self, made: Any) -> None:
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (memory := tensor.untyped_storage())._cdata not in self._sizes:
                size = -(-memory.nbytes() // _BLOCK) * _BLOCK
                self._sizes[memory._cdata] = size
                self.now += size
                weakref.finalize(memory, self._lose, memory._cdata)
        self.most = max(self.most, self.now)

    def _lose(self, address: int) -> None:
        self.now -= self._sizes.pop(address)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out


def hollow(mode: FakeTensorMode, given: Any) -> Any:
    """The same with tensors that have no numbers."""
    if isinstance(given, Tensor):
        return mode.from_tensor(given)
    if isinstance(given, dict):
        return {key: hollow(mode, value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return type(given)(hollow(mode, value) for value in given)
    if dataclasses.is_dataclass(given):
        made = copy.copy(given)
        for field in dataclasses.fields(given):
            object.__setattr__(made, field.name, hollow(mode, getattr(given, field.name)))
        return made
    return given


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attention as GPUs compute it, which keeps no matrix but a mask's, in rows of whole 16 bytes."""
    if attn_mask is not None:
        count = key.shape[2]
        logits = torch.zeros_like(attn_mask, dtype=query.dtype)
        logits = F.pad(logits, (0, -count % 8))[..., :count]
        attn_mask = logits.expand(*query.shape[:3], count)
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    return attention(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Autocast on a CPU stands in for a GPU's, which would be needed for gradients there."""
    with ExitStack() as stack:
        for place in ("norms", "casting"):
            widens = patch(f"mamoe.models.blocks.{place}.widens_norms", lambda _: torch.is_autocast_enabled("cpu"))
            stack.enter_context(widens)
        for place in ("grouped", "lora"):
            stack.enter_context(patch(f"mamoe.models.experts.{place}.grouped_suits", lambda _: True))
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", _fused_attention))
        yield


def reckoned(config: Train, module: DiffusionModule, side: int) -> dict[str, float]:
    """GiB that the steps hold at most, and of what, with pictures of ``side`` pixels; the module lies on ``meta``."""
    unet, cells, batch = module.unet, side // 8, config.data.batch_size
    conditioning = module.conditioner(layouts_of(config, cells), device=torch.device("cpu"), dtype=torch.float32)
    trained = sum(weight.numel() for weight in unet.parameters() if weight.requires_grad)
    small = str(config.optimizer["_target_"]).endswith(".make_adam8bit")
    kept = trained * ((_EIGHT_BITS if small else _PLAIN) + 4 * (config.ema_decay is not None))
    mode, held = FakeTensorMode(allow_non_fake_inputs=True), Held()
    with as_on_a_gpu(), mode:
        unet.to_empty(device="cpu")
        inputs = hollow(mode, conditioning.unet_inputs())
        noisy, told = torch.empty(batch, 4, cells, cells), torch.zeros(batch, dtype=torch.long)
        with held:
            held.add(list(unet.parameters()))
            weights = held.now
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    out = predict(unet, noisy, told, inputs)
                    loss = (out.float() - noisy).square().mean()
                del out
                if config.trainer.accumulate_grad_batches == 1:
                    unet.zero_grad()
                loss.backward()
                del loss
    gradients = 4 * trained
    parts = {"weights": weights, "gradients": gradients, "moments_and_average": kept}
    found = {**parts, "between_layers": held.most - weights - gradients, "peak": held.most + kept}
    return {"trained_m": trained / 1e6, **{name: size / GIB for name, size in found.items()}}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, help="pictures at a time; the preset's unless given")
    parser.add_argument("--words", nargs="*", default=[], help="more of the configuration")
    options = parser.parse_args()
    words = [*options.words, *([] if options.batch is None else [f"data.batch_size={options.batch}"])]
    found: dict[str, Any] = {}
    for preset in options.only:
        for network in options.networks:
            config = configured(preset, network, *words)
            module, _ = made(config, NETWORKS[network][options.quick])
            one = rounded(reckoned(config, module, 64 if options.quick else options.side))
            found[f"{network}_{preset}"] = {**one, "batch": config.data.batch_size, "side": options.side}
            print(f"{network} in {preset} GB:", json.dumps(found[f"{network}_{preset}"]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
