import torch
from torch import nn
from torch.nn import init
from torch.utils._python_dispatch import TorchDispatchMode

from mamoe.machine.skeleton import without_memory


class Heard(TorchDispatchMode):
    """Which kernels are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_what_is_made_has_no_memory_and_nothing_is_drawn():
    with Heard() as heard, without_memory():
        made = nn.Sequential(nn.Linear(4, 8), nn.Conv2d(3, 5, 3), nn.LayerNorm(8), nn.Embedding(7, 2))
        init.normal_(tensor=made[0].weight)
        assert torch.ones(2).add(1).device.type == "meta"
    assert {weight.device.type for weight in made.parameters()} == {"meta"}
    assert made[1].weight.shape == (5, 3, 3, 3)
    assert not heard.names & {"uniform_", "normal_", "uniform", "normal"}, heard.names


def test_afterwards_numbers_are_drawn_again():
    with without_memory():
        pass
    assert nn.Linear(4, 8).weight.std() > 0
