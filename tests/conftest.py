import atexit
import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False  # compiling every library anew takes each process longer than all else it does
if "PYTEST_XDIST_WORKER" in os.environ:  # a process for every processor: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports a hub client: tests need no network
sys.path.insert(0, str(Path(__file__).parent))  # for `import factories` in every folder below

import pytest
from jaxtyping import config

import shapes

shapes.enforce("mamoe")  # before anything of the package is imported

import once  # noqa: E402

once.begin()

from mamoe.machine.threads import wait_politely  # noqa: E402

wait_politely()  # before anything imports torch


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: nobody looks for garbage in it, now or at the end of each of a thousand commands."""
    gc.disable()
    collected = yield
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries count what is left of them
    gc.enable()
    return collected


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """For tests of what the package itself says about wrong shapes: without it the checker would speak first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def data_workers() -> None:
    """For tests whose data come from processes: without it each of these imports everything anew."""
    import apart  # only tests of whole runs pay for its imports

    apart.serve()


@pytest.fixture(scope="session")
def base_model(tmp_path_factory) -> Path:
    """A tiny base model with random weights."""
    from factories import tiny_base  # only tests of whole runs pay for importing diffusers

    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def xl_base(tmp_path_factory) -> Path:
    """A tiny base model of the SDXL kind, with two text encoders."""
    from factories import tiny_base

    return tiny_base(tmp_path_factory.mktemp("xl") / "base", two_encoders=True)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A few drawn scenes of 64x64."""
    from factories import drawn_data

    return drawn_data(tmp_path_factory.mktemp("scenes") / "data", {"train": 6, "val": 3, "test": 2})


@pytest.fixture(scope="session")
def finished_run(base_model, scenes, tmp_path_factory) -> Path:
    """A training of four steps. Look, do not touch."""
    from factories import mamoe, only_run, short_run

    runs = tmp_path_factory.mktemp("finished") / "runs"
    outcome = mamoe("train", *short_run(base_model, scenes, runs))
    assert outcome.code == 0, outcome.err
    return only_run(runs)
