"""A transformer is trained as a UNet is: through the same module, to the bit, by the same methods."""

import dataclasses
import functools

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from training_fakes import CPU, WIDTH, TextTable, condition, fit, make_data, make_module

from mamoe.diffusion.schedules import make_flow, make_scheduler
from mamoe.methods.registry import METHODS
from mamoe.models.control.call import with_layout
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from mamoe.vocabulary.conditioning import LevelConditioning
from small_models import hard_routing, small_pixart

GRID = (4, 4)  # patches of an 8x8 latent


def steered(text, regions, device, dtype):
    """Two regions, left and right: a token and an expert each."""
    plain = condition(text, regions, device, dtype)
    right = (torch.arange(16) % 4 >= 2).repeat(len(regions), 1)
    attend = torch.stack([~right, right], dim=2)
    level = LevelConditioning(grid=GRID, attend=attend, routing=hard_routing(right.long(), 2))
    return dataclasses.replace(plain, levels=(level,))


def train(run, *, name="full", steps=6, resume=None, scheduler=None):
    method = METHODS[name](rank=4, alpha=4, conv=False) if name == "lora" else METHODS[name]()
    stock = small_pixart(sample_size=8, caption_channels=WIDTH)
    network = method.prepare(with_layout(stock, num_experts=2, copies=not method.replaces_experts), seed=1)
    text = TextTable()
    module = make_module(
        unet=network,
        conditioner=functools.partial(steered, text),
        scheduler=scheduler or make_scheduler("epsilon", zero_snr=False),
        gradient_checkpointing=True,
        adapter_alone=method.keeps_adapter_alone,
    )
    fit(module, make_data(), run, max_steps=steps, checkpoint_every_n_steps=3, trainer=CPU, resume=resume)
    return module


@pytest.mark.parametrize("name", ["full", "lora", "lora_experts"])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, name):
    whole = train(tmp_path / "whole", name=name)
    train(tmp_path / "parts", name=name, steps=3)
    train(tmp_path / "parts", name=name, resume=tmp_path / "parts")
    for file in (tmp_path / "whole/checkpoints/latest").rglob("*.safetensors"):
        other = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
        one, two = load_file(file), load_file(other)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), file.name
    before = small_pixart(sample_size=8, caption_channels=WIDTH).state_dict()
    after = {k.replace(".base_layer", ""): v for k, v in whole.unet.state_dict().items()}
    changed = any(not torch.equal(after[name], value) for name, value in before.items())
    assert changed == (name == "full")


def test_what_was_trained_is_read_back_as_what_it_is(tmp_path):
    module = train(tmp_path, scheduler=make_flow(shift=3.0))
    read = MaMoEPixArtTransformer2DModel.from_pretrained(tmp_path / "checkpoints/latest/unet")
    assert read.config["num_experts"] == 2 and not isinstance(read, UNet2DConditionModel)
    for name, value in module.unet.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)
    first, second = (net.state_dict() for net in read.transformer_blocks[0].ff.nets)
    assert any(not torch.equal(first[key], second[key]) for key in first)  # both experts learned, each for itself
