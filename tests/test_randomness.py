"""Seeds, and the global generators of torch that libraries draw from."""

import traceback

import pytest
import torch

from mamoe.randomness import seed_streams, seeded


def test_the_streams_begin_as_torch_seeds_them():
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_streams(5)
    assert torch.equal(torch.rand(3), expected)


def test_devices_that_are_not_in_use_are_not_asked(monkeypatch):
    # Each of them would write down the whole stack, for every sample that is loaded.
    monkeypatch.setattr(traceback, "format_stack", lambda *_: pytest.fail("a device was asked that is not in use"))
    seed_streams(5, [torch.device("cpu")])
    with seeded(6):
        torch.rand(3)


def test_seeded_leaves_the_stream_as_it_was():
    torch.manual_seed(5)
    torch.rand(2)
    before = torch.get_rng_state()
    with seeded(7):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(7):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.gpu
def test_a_device_is_seeded_where_it_is_named_and_left_alone_where_not():
    device = torch.device("cuda", 0)
    torch.manual_seed(5)
    torch.rand(2, device=device)
    before = torch.cuda.get_rng_state(device)
    with seeded(7):
        torch.rand(3)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    drawn = []
    for _ in range(2):
        with seeded(7, [device]):
            drawn.append(torch.rand(3, device=device))
    assert torch.equal(*drawn) and torch.equal(torch.cuda.get_rng_state(device), before)
