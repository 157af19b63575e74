"""Two processes that train on different layouts end with the same weights, without find_unused_parameters."""

import os

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from mamoe.vocabulary.conditioning import LevelConditioning


def train(rank, folder, models):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = models.mamoe().train()
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(3):
        levels = models.levels(2, (8, 12), 7, seed=10 * step + rank)
        if rank == 0:  # this process never sees experts 1 and 2
            levels = tuple(only_the_rest_group(models, level) for level in levels)
        out = replica(**models.inputs(size=(8, 12)), cross_attention_kwargs={"regions": levels}).sample
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def only_the_rest_group(models, level):
    expert = torch.zeros((2, level.grid[0] * level.grid[1]), dtype=torch.long)
    return LevelConditioning(grid=level.grid, attend=level.attend, routing=models.hard(expert, 3))


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(models, tmp_path):
    start_processes(train, args=(str(tmp_path), models), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    begin = models.mamoe().state_dict()
    assert first.keys() == begin.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key])
    moved = [key for key in begin if ".experts.2." in key and not torch.equal(first[key], begin[key])]
    assert moved
