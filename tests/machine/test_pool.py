"""A function over many pieces of work in several processes."""

import os
import signal

import pytest

from mamoe.errors import MamoeError
from mamoe.machine.pool import mapped


def square(number: int) -> int:
    return number * number


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)  # as Linux does where memory runs out
    return number


def test_results_come_in_order_whoever_is_first():
    work = list(range(50))
    assert list(mapped(square, work, workers=2, least=4)) == [square(one) for one in work]


def test_a_process_that_was_ended_is_said():
    with pytest.raises(MamoeError, match="One of the 2 processes") as caught:
        list(mapped(killed, list(range(20)), workers=2, least=4))
    assert "kept" not in str(caught.value)  # imports keep what they finished, drawn scenes come whole or not at all
