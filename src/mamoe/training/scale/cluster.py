"""How processes that somebody else started (torchrun, srun) agree on something before the training joins them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch import distributed

from mamoe.errors import ConfigError, DatasetError, MamoeError

SHARED = "MAMOE_RUN"  # how the first process tells those that Lightning starts for it what was agreed on
_PATIENCE = timedelta(hours=12)  # the first process may open every file of a large data set
_MEETINGS = count()  # numbers what the processes of one start wait for each other for

Choice = dict[str, str | None]


def is_first_process() -> bool:
    """Whether this process writes what is written once."""
    environment = _started_by_others()
    return environment.global_rank() == 0 if environment else int(os.environ.get("LOCAL_RANK", "0")) == 0


def _started_by_others() -> ClusterEnvironment | None:
    kinds = (TorchElasticEnvironment, SLURMEnvironment)
    return next((kind() for kind in kinds if kind.detect()), None)


@contextmanager
def agreement(choose: Callable[[], Choice]) -> Iterator[Choice]:
    """What the first process chooses, on all processes of a run; it holds inside the ``with``.

    Raises:
        MamoeError: what ``choose`` raised in the first process, in every one.
    """
    if shared := os.environ.get(SHARED):
        yield json.loads(shared)
        return
    environment = _started_by_others()
    if environment is None or environment.world_size() == 1:
        chosen = choose()
        os.environ[SHARED] = json.dumps(chosen)
        try:
            yield chosen
        finally:
            del os.environ[SHARED]  # the next training of this process chooses anew
        return
    answer = _told(environment, choose)
    assert answer is not None
    yield answer


def done_first(work: Callable[[], None]) -> None:
    """Do in the first process what is done once, while the others wait for it.

    Raises:
        MamoeError: what ``work`` raised in the first process, in every one.
    """
    if SHARED in os.environ:  # the process that started this one has done it
        return
    environment = _started_by_others()
    if environment is None or environment.world_size() == 1:
        work()
    else:
        _told(environment, work)


def _told(environment: ClusterEnvironment, work: Callable[[], Choice | None]) -> Choice | None:
    """What the first process's ``work`` came to, on all processes, in the same order of calls."""
    store, key = _store(), f"mamoe/{next(_MEETINGS)}"
    if environment.global_rank() == 0:
        store.set(key, json.dumps(_outcome(work)))
    answer = json.loads(store.get(key))
    if answer["error"] is not None:
        raise (DatasetError if answer["dataset"] else ConfigError)(answer["error"])
    return answer["choice"]


@cache
def _store() -> distributed.Store:
    # Only the store behind a process group, and kept until the end: Lightning's own group will share its server.
    environment = _started_by_others()
    assert environment is not None
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    rank, world = environment.global_rank(), environment.world_size()
    store, _, _ = next(distributed.rendezvous("env://", rank, world, timeout=_PATIENCE))
    return store


def _outcome(work: Callable[[], Choice | None]) -> dict[str, Any]:
    try:
        return {"choice": work(), "error": None}
    except MamoeError as error:
        return {"choice": None, "error": str(error), "dataset": isinstance(error, DatasetError)}
