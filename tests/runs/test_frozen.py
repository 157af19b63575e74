"""LoRA beside frozen weights in fewer bits: trained, gone on with to the bit, drawn beside whole weights."""

import numpy as np
import pytest
import torch
from torch import nn

from factories import only_run
from loraruns import METHODS, words_of
from mamoe import LayoutPipeline
from mamoe.errors import ConfigError
from mamoe.methods.lora_experts import LoraExperts
from mamoe.models.blocks.block import blocks_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.frozen import Frozen, quantise, widen_norms
from mamoe.runs.adapter import base_fingerprint
from small_flux_base import write_flux_base
from small_models import POOLED_WIDTH, TEXT_WIDTH, small_flux, small_z_image
from wholeruns import assert_equal, cut_back, draw, tensors, trained

KINDS = ["bf16", "int8", "nf4"]
WIDE = {"attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}  # rows of 64: nf4 has a scale for as many
WIDE_Z_IMAGE = {"dim": 64, "axes_dims": [8, 12, 12]}
FAMILIES = {"flux": lambda: small_flux(**WIDE), "z_image": lambda: small_z_image(**WIDE_Z_IMAGE)}
HALF = "trainer.precision=bf16-mixed"


def needs(kind):
    if kind in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_flux_base(tmp_path_factory.mktemp("flux"), **WIDE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_about_the_same_and_gradients_reach_what_trains(kind, family):
    needs(kind)
    made = FAMILIES[family]
    inputs = {
        "encoder_hidden_states": torch.randn(1, 5, TEXT_WIDTH),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, POOLED_WIDTH)},
    }
    network = LoraExperts(rank=4, alpha=4).prepare(with_layout(made(), num_experts=2), seed=0)
    noisy = torch.randn(1, 4, 6, 8)
    wanted = predict(network, noisy, 500, inputs).detach()
    name = base_fingerprint(network.to(torch.bfloat16))
    for parameter in network.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    widen_norms(network)
    quantise(network, Frozen(kind))
    with torch.autocast("cpu", torch.bfloat16):
        got = predict(network, noisy, 500, inputs)
    assert (got - wanted).abs().mean() < 0.3 * wanted.abs().mean()
    got.float().square().sum().backward()
    trains = [p for p in network.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and p.grad is not None for p in trains)
    plain = {type(m) for block in blocks_of(network) for m in block.modules() if isinstance(m, nn.Linear)}
    assert (plain == {nn.Linear}) == (kind == "bf16")
    assert name.startswith("bf16-") and name == base_fingerprint(made().requires_grad_(False), rounded=True)


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "lora_experts"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_resumes_to_the_bit_and_is_drawn_from_whole_weights(base, scenes, tmp_path, kind, method):
    needs(kind)
    words = [*METHODS[method], HALF, f"model.frozen_precision={kind}", "callbacks.samples=null"]
    trained(*words_of(base, scenes, tmp_path / "runs", *words))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    assert all(value.dtype == torch.float32 for name, value in tensors(run, 4).items() if "adapter" in name)
    whole = draw(LayoutPipeline.from_pretrained(run), scenes)
    half = LayoutPipeline.from_pretrained(run, torch_dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16 and not any(p.dtype == torch.float32 for p in half.unet.parameters())
    assert np.abs(draw(half, scenes).astype(float) - whole).mean() < 8  # of 255
    refused = trained(f"resume={run}", "model.frozen_precision=fp32", "trainer.max_steps=6", code=2)
    assert "frozen_precision" in refused.err


@pytest.mark.slow
def test_a_unet_keeps_its_frozen_weights_in_half_too(base_model, scenes, tmp_path):
    words = ["method=lora", "method.rank=4", HALF, "model.frozen_precision=bf16", "callbacks.samples=null"]
    trained(*words_of(base_model, scenes, tmp_path / "runs", *words))
    assert np.isfinite(draw(LayoutPipeline.from_pretrained(only_run(tmp_path / "runs")), scenes)).all()


def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path):
    lora = METHODS["lora"]
    said = trained(*words_of(base, scenes, tmp_path, *lora, "model.frozen_precision=nf4"), code=2).err
    assert "set trainer.precision=bf16-mixed" in said
    said = trained(*words_of(base, scenes, tmp_path, "method=full", HALF, "model.frozen_precision=bf16"), code=2).err
    assert "choose lora or lora_experts" in said


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"model\.frozen_precision=nf4 needs the package bitsandbytes.*quantised"):
        quantise(small_flux(), Frozen.NF4)
