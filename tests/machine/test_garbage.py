"""Python's looks for garbage: rare, and none of what training leaves behind waits for them."""

import gc
from collections import Counter

import pytest
import torch

from factories import mamoe, short_run
from mamoe.machine.garbage import OBJECTS


@pytest.fixture
def undisturbed():
    before = gc.get_threshold()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.set_threshold(*before)
    gc.enable()


def test_a_command_looks_rarely(undisturbed):
    gc.set_threshold(700)
    assert mamoe("--version").code == 0
    assert gc.get_threshold()[0] == OBJECTS


def test_steps_leave_no_tensor_to_be_looked_for(undisturbed, base_model, scenes, tmp_path):
    def left_by(steps: int) -> Counter:
        words = [
            *short_run(base_model, scenes, tmp_path / str(steps)),
            "callbacks.samples=null",
            f"trainer.max_steps={steps}",
        ]
        gc.collect()
        gc.disable()
        trained = mamoe("train", *words)
        gc.set_debug(gc.DEBUG_SAVEALL)  # found garbage is kept, to be counted
        gc.collect()
        gc.set_debug(0)
        assert trained.code == 0, trained.err
        kinds = Counter(tuple(one.shape) for one in gc.garbage if issubclass(type(one), torch.Tensor))
        gc.garbage.clear()
        return kinds

    assert left_by(5) == left_by(2)
