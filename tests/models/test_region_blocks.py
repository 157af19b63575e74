"""Regions hold in the blocks that are named, counted as they run; the others read the text of the whole picture."""

import pytest
import torch

from mamoe.errors import ConfigError
from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.control.call import predict, with_layout
from mamoe.models.halves import Halves
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.leaks import leaks_of
from mamoe.models.reach import measured
from masks import who_may

CELLS = (16, 16)
COUNTS = {"unet": 7, "pixart": 2, "flux": 4, "flux2": 4, "sd3": 3, "qwen": 2}  # transformer blocks of the small models
HELD = {"unet": [0, 3, 6], "pixart": [1], "flux": [1, 2], "flux2": [0, 3], "sd3": [0, 2], "qwen": [1]}


def made(models, family, **own):
    return models.trained(with_layout(getattr(models, family)(), num_experts=2, **own)).requires_grad_(False)


def run(network, **said):
    return predict(network, halves(network).noisy, 500, halves(network).inputs(**said))


def halves(network):
    return Halves.for_network(network, CELLS, experts=2)


def read_by(network):
    """The blocks in the order they run, and the mask that each one's attention is told."""
    blocks, masks = [], []
    modules = [module for module in network.modules() if isinstance(module, LayoutBlock | ExpertPlace)]
    hooks = [one.register_forward_pre_hook(lambda block, args: blocks.append(block)) for one in modules]
    for one in modules:
        layer = one.attn2 if isinstance(one, LayoutBlock) else one.attn
        hooks.append(
            layer.register_forward_pre_hook(
                lambda layer, args, told: masks.append(who_may(told["attention_mask"])), with_kwargs=True
            )
        )
    run(network)
    for hook in hooks:
        hook.remove()
    return blocks, masks


@pytest.mark.parametrize("family", COUNTS)
def test_blocks_are_counted_as_they_run_and_told_their_own_mask(models, family):
    count, numbers = COUNTS[family], HELD[family]
    blocks, masks = read_by(made(models, family, region_blocks=numbers))
    assert [number for number, block in enumerate(blocks) if block.region_attention] == numbers
    held, opened = (read_by(made(models, family, region_attention=regions))[1] for regions in (True, False))
    assert len(masks) == len(held) == len(opened) == count
    for number, mask in enumerate(masks):
        assert torch.equal(mask, (held if number in numbers else opened)[number])
        assert not torch.equal(*torch.broadcast_tensors(held[number], opened[number]))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", COUNTS)
def test_text_enters_by_region_in_the_named_blocks_and_anywhere_in_the_others(models, family, checkpointed):
    network = made(models, family, region_blocks=HELD[family])
    if checkpointed:
        network.requires_grad_(True).train().enable_gradient_checkpointing()
    asked = halves(network)
    found = leaks_of(network, lambda: run(network), asked.levels(), asked.right_tokens)
    assert [number for number, leak in enumerate(found) if leak.held] == HELD[family]
    for leak in found:
        assert leak.inside > 1e-4
        assert (leak.outside == leak.gradient == 0.0) if leak.held else (leak.outside > 1e-4 and leak.gradient > 0)


@pytest.mark.parametrize("family", COUNTS)
def test_all_blocks_named_are_all_blocks_and_a_folder_remembers_some(models, family, tmp_path):
    network = made(models, family)
    every, some = (with_layout(network, num_experts=2, region_blocks=n) for n in (range(COUNTS[family]), HELD[family]))
    assert torch.equal(run(every), run(network))
    assert not torch.allclose(run(some), run(network))
    everywhere = run(some, masked=False)
    torch.testing.assert_close(everywhere, run(network, masked=False), rtol=0, atol=1e-5)
    some.save_pretrained(tmp_path)
    again = type(some).from_pretrained(tmp_path)
    assert again.config["region_blocks"] == HELD[family]
    assert torch.equal(run(again), run(some))
    assert "region_blocks" not in again.to_dense().config


@pytest.mark.parametrize("family", COUNTS)
def test_numbers_of_no_block_are_refused_with_how_many_there_are(models, family):
    count, stock = COUNTS[family], getattr(models, family)()
    with pytest.raises(ConfigError, match=rf"layout\.blocks.*\[{count}\].*has {count} transformer blocks: 0 to"):
        with_layout(stock, num_experts=2, region_blocks=[0, count])
    with pytest.raises(ConfigError, match="names no block"):
        with_layout(stock, num_experts=2, region_blocks=[])
    with pytest.raises(ConfigError, match="needs region_attention"):
        with_layout(stock, num_experts=2, region_attention=False, region_blocks=[0])


@pytest.mark.parametrize("family", ["unet", "pixart"])
def test_strengths_are_learned_where_regions_hold(models, family):
    network = made(models, family, region_blocks=[0], learned_strength=True)
    assert sum(name.endswith("strength.weight") for name, _ in network.named_parameters()) == 1
    run(network)
    wider = with_layout(network, num_experts=2, region_blocks=[0, 1], learned_strength=True)
    learned = {name: weight for name, weight in network.state_dict().items() if "strength" in name}
    assert all(torch.equal(wider.state_dict()[name], weight) for name, weight in learned.items())
    with pytest.raises(ConfigError, match="in blocks that region_blocks does not name"):
        with_layout(wider, num_experts=2, region_blocks=[1], learned_strength=True)


@pytest.mark.parametrize("family", COUNTS)
def test_open_blocks_are_no_leak(models, family):
    network = made(models, family, region_blocks=HELD[family])
    reach = measured(network, CELLS)
    assert not reach.problems and reach.allowed is None
    assert sum(layer.held for layer in reach.layers) == len(HELD[family])
    assert any(layer.left for layer in reach.layers)
