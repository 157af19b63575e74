"""How processes that somebody else started (torchrun, srun) agree on something before the training joins them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch import distributed

from mamoe.types import ConfigError, MamoeError

SHARED = "MAMOE_RUN"  # how the first process tells those that Lightning starts for it what was agreed on
_PATIENCE = timedelta(minutes=30)  # the first process may hash a large checkpoint

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
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    rank, count = environment.global_rank(), environment.world_size()
    # Only the store behind a process group, and kept until the end: Lightning's own group will share its server.
    store, _, _ = next(distributed.rendezvous("env://", rank, count, timeout=_PATIENCE))
    if rank == 0:
        store.set("mamoe/choice", json.dumps(_outcome(choose)))
    answer = json.loads(store.get("mamoe/choice"))
    if answer["error"] is not None:
        raise ConfigError(answer["error"])
    yield answer["choice"]
    del store


def _outcome(choose: Callable[[], Choice]) -> dict[str, Any]:
    try:
        return {"choice": choose(), "error": None}
    except MamoeError as error:
        return {"choice": None, "error": str(error)}
