"""Norms that answer in the format, and the layout in memory, they are given."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mamoe.machine.kernels import runs_kernels
from mamoe.machine.replay import _being_recorded
from mamoe.models.blocks import norms
from mamoe.models.blocks.norms import GroupNorm, LayerNorm


@pytest.fixture
def fused(monkeypatch):
    """As on a GPU: what was asked of our own kernel."""
    asked = []

    def of_torch(self, input, *, silu):
        asked.append(silu)
        y = F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(y) if silu else y

    monkeypatch.setattr(norms, "fuses", lambda x: True)
    monkeypatch.setattr(GroupNorm, "_fused", of_torch)
    return asked


def test_a_norm_does_in_one_pass_what_nothing_listens_to(fused):
    norm, x = GroupNorm(2, 4), torch.randn(1, 4, 3, 3)
    wanted = F.silu(norm(x))
    assert torch.equal(norm.with_silu(x), wanted) and fused == [False, True]


@pytest.mark.parametrize("how", ["pre hook", "hook", "backward hook", "another forward"])
def test_what_listens_to_a_norm_or_fetches_its_weights_is_asked_as_ever(fused, how):
    norm, x, heard = GroupNorm(2, 4), torch.randn(1, 4, 3, 3, requires_grad=True), []
    wanted, forward = F.silu(norm(x)), norm.forward

    def note(*_):
        heard.append(how)

    def offloaded(x):  # accelerate and diffusers put their own in its place
        note()
        return forward(x)

    if how == "pre hook":
        norm.register_forward_pre_hook(note)
    elif how == "hook":
        norm.register_forward_hook(note)
    elif how == "backward hook":
        norm.register_full_backward_hook(note)
    else:
        norm.forward = offloaded  # type: ignore[method-assign]
    y = norm.with_silu(x)
    y.sum().backward()
    assert torch.equal(y, wanted) and heard == [how]


def test_kernels_that_compute_in_float32_are_not_given_float64(monkeypatch):
    monkeypatch.setattr("mamoe.machine.kernels.has_triton", lambda: True)
    assert runs_kernels(SimpleNamespace(is_cuda=True, dtype=torch.bfloat16))  # type: ignore[arg-type]
    assert not runs_kernels(SimpleNamespace(is_cuda=True, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.usefixtures("compilable")
def test_what_is_compiled_is_not_compiled_again_to_be_recorded():
    written = []

    def backend(graph, inputs):
        written.append(graph)
        return graph

    norm, x = LayerNorm(8), torch.randn(2, 8)
    norm.compile(backend=backend)
    norm(x)
    with _being_recorded():
        norm(x)
    assert len(written) == 1
