"""torch.compile sees one graph, and one is enough for all layouts of a size."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mamoe.vocabulary.conditioning import LevelConditioning

SIZE = (8, 12)


def layouts(models, count):
    return [
        {"cross_attention_kwargs": {"regions": models.levels(2, SIZE, 7, seed=seed, num_levels=2)}}
        for seed in range(count)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("compilable")
@torch.no_grad()
def test_one_graph_for_all_layouts(models):
    model = models.smallest_mamoe()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    given = models.inputs(size=SIZE)
    for layout in layouts(models, 3):
        torch.testing.assert_close(
            compiled(**given, **layout).sample, model(**given, **layout).sample, atol=1e-5, rtol=1e-4
        )
    assert counter.frame_count == 1


@pytest.mark.usefixtures("compilable")
@pytest.mark.slow
def test_compiled_gradients_are_the_eager_ones(models):
    """Of the traced graphs; what inductor makes of them is trained with in ``tests/training/test_compiling.py``."""
    model = models.smallest_mamoe()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    given = models.inputs(size=SIZE)
    for layout in layouts(models, 2):
        wanted = torch.autograd.grad(model(**given, **layout).sample.square().mean(), list(model.parameters()))
        got = torch.autograd.grad(compiled(**given, **layout).sample.square().mean(), list(model.parameters()))
        for mine, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("compilable")
@pytest.mark.slow
@torch.no_grad()
def test_area_routing_compiles_for_any_number_of_rows(models):
    model = models.smallest_mamoe()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    given = models.inputs(size=SIZE)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        levels = []
        for level in models.levels(2, SIZE, 7, num_levels=2):
            raw = torch.rand((2, level.grid[0] * level.grid[1], 3), generator=generator)
            raw = raw * (raw > 0.4)
            raw[..., 0] += 0.1
            routing = models.area(raw / raw.sum(2, keepdim=True))
            levels.append(LevelConditioning(grid=level.grid, attend=level.attend, routing=routing))
        layout = {"cross_attention_kwargs": {"regions": tuple(levels)}}
        torch.testing.assert_close(
            compiled(**given, **layout).sample, model(**given, **layout).sample, atol=1e-5, rtol=1e-4
        )
    assert counter.frame_count <= 2  # the number of rows becomes a symbol when it first changes
