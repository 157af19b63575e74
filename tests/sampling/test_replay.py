"""Recorded calls: the values of plain ones, whatever changes between two of them."""

import dataclasses

import pytest
import torch

from mamoe.machine.replay import MOST, Replayed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    mask: torch.Tensor
    name: str


def counted(call, made):
    """What stands in for a CUDA graph: the same work on the same places, its result at one place too."""

    def record(run):
        out = run().clone()
        made.append(1)
        return lambda: out.copy_(run()), out

    return Replayed(call, record)


def work(x, *, layouts, scale=1.0):
    return scale * sum(layout["layout"].mask * x for layout in layouts)


def given(width, value):
    return {"layouts": [{"layout": Layout(mask=torch.full((width,), value), name="a")}]}


def test_a_replay_is_the_call():
    made = []
    replayed = counted(work, made)
    x, inputs = torch.arange(3.0), given(3, 2.0)
    first = replayed(x, **inputs)
    assert torch.equal(first, 2 * x)
    assert torch.equal(replayed(x + 1, **inputs), 2 * (x + 1)) and torch.equal(first, 2 * x)
    inputs["layouts"][0]["layout"].mask.fill_(5.0)  # the same tensor with other values
    assert torch.equal(replayed(x, **inputs), 5 * x)
    assert torch.equal(replayed(x, **given(3, 7.0)), 7 * x)
    assert len(made) == 1


@pytest.mark.parametrize("change", [{"scale": 2.0}, given(4, 1.0), {"layouts": given(3, 1.0)["layouts"] * 2}])
def test_what_is_no_tensor_and_every_shape_has_a_recording_of_its_own(change):
    made = []
    replayed = counted(work, made)
    x = torch.ones(1)
    replayed(x, **given(3, 1.0))
    wanted = {**given(3, 1.0), **change}
    assert torch.equal(replayed(x, **wanted), work(x, **wanted)) and len(made) == 2


def test_what_is_used_between_others_is_never_recorded_again():
    """As the steps before regions bind, which are the same for every picture."""
    made = []
    replayed = counted(work, made)
    for width in range(2, MOST + 4):
        for own in (1, width):
            assert torch.equal(replayed(torch.ones(1), **given(own, 3.0)), torch.full((own,), 3.0))
    assert len(made) == 1 + MOST + 2


def test_old_recordings_make_room():
    made = []
    replayed = counted(work, made)
    for width in (*range(1, MOST + 2), 1):
        assert torch.equal(replayed(torch.ones(1), **given(width, 3.0)), torch.full((width,), 3.0))
    assert len(made) == MOST + 2
