"""An optimizer's settings before a step, for a step that is found out later to have been none."""

from __future__ import annotations

import copy
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Rates:
    """What a learning-rate schedule has set, to be put back: everything in the optimizer's groups but the weights."""

    def __init__(self, optimizer: Optimizer, schedule: LRScheduler | None) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._groups = [_settings(group) for group in optimizer.param_groups]
        self._state = None if schedule is None else copy.deepcopy(schedule.state_dict())

    def put_back(self) -> None:
        for group, settings in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(settings)
        if self._schedule is not None and self._state is not None:
            self._schedule.load_state_dict(self._state)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
