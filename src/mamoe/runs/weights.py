"""What a checkpoint holds of a training: networks, their averages, optimizer, schedule and counters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mamoe.errors import CheckpointError
from mamoe.runs.checkpoint import OPTIMIZER
from mamoe.runs.dealt import class_name, part_of
from mamoe.storage.tensor_file import read_tensors, write_tensors

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_STATE = "trainer/state.json"
# Of an optimizer, besides its rate: as configured now, not as they were saved. Some schedules of torch's move betas.
_NEVER_SCHEDULED = ("weight_decay",)
_TOLD = (*_NEVER_SCHEDULED, "betas")


def save_network(network: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """``state`` as weights of ``network`` in the layout its library's ``from_pretrained`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if hasattr(network, "save_config"):  # diffusers
        network.save_config(folder)  # type: ignore[operator]
        _name_class(folder / "config.json", type(network).__name__, class_name(network))
        write_tensors(state, folder / _WEIGHTS, {"format": "pt"})
    else:  # transformers, which may rename weights on their way to the file
        network.save_pretrained(folder, state_dict=state)  # type: ignore[operator]


def read_network(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state dict written by :func:`save_network`, checked against ``network``.

    Raises:
        CheckpointError: names or shapes of the weights are others than the network's.
    """
    state: dict[str, Tensor]
    if hasattr(network, "save_config"):
        state = read_tensors(folder / _WEIGHTS)
    else:
        kind: Any = type(network)
        state = kind.from_pretrained(folder, use_safetensors=True).state_dict()
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    came = {name: tuple(value.shape) for name, value in state.items()}
    odd = sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name))
    if odd:
        name = odd[0]
        raise CheckpointError(
            f"The weights in {folder} do not fit the model of this configuration: {len(odd)} differ, first {name!r} "
            f"(model {wanted.get(name, 'has none')}, checkpoint {came.get(name, 'has none')}). "
            "Resume with the model settings of that run."
        )
    return state


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainerState:
    """Optimizer, schedule and counters at one moment."""

    moments: Mapping[str, Tensor]  # the optimizer's own tensors: they change with its next step
    text: str  # everything else, as JSON


def trainer_state(
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    counters: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> TrainerState:
    """What :func:`save_trainer` writes.

    Args:
        state: the optimizer's state dict with whole tensors, where each process has only a part of them.
    """
    state = state or optimizer.state_dict()
    entries = dict(_flat(state["state"]))
    scalars = {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
    content = {
        "counters": dict(counters),
        "optimizer": {"kind": type(optimizer).__name__, "groups": state["param_groups"], "scalars": scalars},
        "lr_scheduler": None if schedule is None else _json_state(schedule),
    }
    moments = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    return TrainerState(moments=moments, text=json.dumps(content, indent=1))


def save_trainer(folder: Path, state: TrainerState) -> None:
    """Optimizer moments as tensors; everything else as JSON."""
    (folder / "trainer").mkdir(parents=True, exist_ok=True)
    write_tensors(_unshared(state.moments), folder / OPTIMIZER)
    (folder / _STATE).write_text(state.text)


def read_counters(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / _STATE).read_text())["counters"]


def load_trainer(checkpoint: Path, optimizer: Optimizer, schedule: LRScheduler | None) -> None:
    """Continue an optimizer and its schedule, as new ones of the configuration of now; their settings stay.

    The rate of a schedule that is a function of the step alone is that of now at the resumed step; schedules with a
    state of their own go on as they were.

    Raises:
        CheckpointError: the checkpoint is of another optimizer or schedule.
    """
    content = json.loads((checkpoint / _STATE).read_text())
    saved = content["optimizer"]
    sizes = [len(group["params"]) for group in saved["groups"]]
    wanted = [len(group["params"]) for group in optimizer.param_groups]
    if saved["kind"] != type(optimizer).__name__ or sizes != wanted:
        raise CheckpointError(
            f"{checkpoint} holds the state of {saved['kind']} over {sizes} weights, this configuration has "
            f"{type(optimizer).__name__} over {wanted}. Resume with the optimizer and model settings of that run."
        )
    if (content["lr_scheduler"] is None) != (schedule is None):
        raise CheckpointError(f"{checkpoint} was trained {'with' if schedule is None else 'without'} an LR schedule.")
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**read_tensors(checkpoint / OPTIMIZER), **saved["scalars"]}.items():
        index, *folders, entry = name.split(".")
        place = state.setdefault(int(index), {})
        for folder in folders:
            place = place.setdefault(folder, {})
        place[entry] = _laid_out(value, weights[int(index)])
    # JSON knows no tuples; what optimizers keep in groups are tuples, but for the list of weights.
    groups = [
        {key: value if key == "params" else _as_tuple(value) for key, value in group.items()}
        for group in saved["groups"]
    ]
    fresh = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    ours = schedule is None or isinstance(schedule, LambdaLR)
    for group, new in zip(optimizer.param_groups, fresh, strict=True):
        group.update({key: new[key] for key in (_TOLD if ours else _NEVER_SCHEDULED) if key in new})
    if schedule is None:
        for group, new in zip(optimizer.param_groups, fresh, strict=True):
            group["lr"] = new["lr"]
        return
    rates = schedule.base_lrs
    schedule.load_state_dict(content["lr_scheduler"])
    if isinstance(schedule, LambdaLR):
        _set_rates(optimizer, schedule, rates)


def _set_rates(optimizer: Optimizer, schedule: LambdaLR, rates: list[float | Tensor]) -> None:
    """The rates that a schedule with these full ones has at its step."""
    schedule.base_lrs = rates
    for group, rate, curve in zip(optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = rate, rate * curve(schedule.last_epoch)
    # The schedule says its rates by this name only.
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]  # pyright: ignore[reportPrivateUsage]


def _name_class(config: Path, now: str, name: str) -> None:
    if now != name:
        written = json.loads(config.read_text())
        config.write_text(json.dumps({**written, "_class_name": name}, indent=2, sort_keys=True) + "\n")


def _flat(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested mappings, by their keys joined with dots."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(cast(Mapping[Any, Any], value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_tuple(value: Any) -> Any:
    return tuple(cast(list[Any], value)) if isinstance(value, list) else value


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: safetensors refuses two names for one."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous()
        own[name] = flat.clone() if flat.data_ptr() in seen else flat
        seen.add(flat.data_ptr())
    return own


def _laid_out(value: Any, weight: nn.Parameter) -> Any:
    if isinstance(value, Tensor) and value.shape == weight.shape and isinstance(weight, DTensor):
        return part_of(value, weight)
    # The file holds moments row by row; beside channels-last weights they belong in the weights' own layout.
    if isinstance(value, Tensor) and value.shape == weight.shape:
        return torch.empty_like(weight, dtype=value.dtype, device="cpu").copy_(value)
    return value


def _json_state(schedule: LRScheduler) -> dict[str, Any]:
    state = schedule.state_dict()
    try:
        return json.loads(json.dumps(state))
    except TypeError as error:
        raise CheckpointError(
            f"The state of {type(schedule).__name__} cannot be written as JSON ({error}); choose another LR schedule."
        ) from None
