"""Frozen weights in the format autocast computes in: outputs and gradients are the same to the bit, norms stay."""

import pytest
import torch

from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.methods.decoder import Decoder
from mamoe.methods.dora import Dora
from mamoe.methods.lora import Lora, to_channels_last
from mamoe.methods.lora_experts import LoraExperts
from mamoe.models.control.call import predict, with_layout
from mamoe.models.precast import frozen_sizes, precast
from small_models import (
    POOLED_WIDTH,
    TEXT_WIDTH,
    small_flux,
    small_flux2,
    small_pixart,
    small_qwen,
    small_sd3,
    small_unet,
    small_z_image,
)

RANK = {"rank": 4, "alpha": 4.0}
METHODS = {
    "lora": Lora(**RANK),
    "decoder lora": Lora(**RANK, decoder_only=True),
    "dora of attention": Dora(**RANK, conv=False, projection=False, feed_forward=False),
    "dora": Dora(**RANK),
    "lora experts": LoraExperts(**RANK),
    "decoder": Decoder(),
    "controlnet_xs": ControlNetXS(),
}
# How many of the frozen weights are kept so, at least; nothing of what DoRA adapts.
SHARES = {"dora of attention": 0.5, "dora": 0.01, "controlnet_xs": 0.5}


def prepared(name, *, checkpointing=False):
    method = METHODS[name]
    unet = with_layout(small_unet("sd21"), num_experts=3, region_attention=True, copies=not method.replaces_experts)
    network = method.prepare(unet, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # as after some steps: what begins as zero hides what lies behind it
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    if checkpointing:
        network.enable_gradient_checkpointing()
    return network.train()


def outcome(network, inputs, dtype=torch.bfloat16, picture=None, size=(16, 16)):
    noisy = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype):
        out = predict(network, noisy, torch.tensor([100, 700]), inputs, picture)
        loss = (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    loss.backward()
    return out, {name: weight.grad for name, weight in network.named_parameters() if weight.requires_grad}


def assert_same(one, other):
    (out, gradients), (wanted, wanted_gradients) = one, other
    assert torch.equal(out, wanted) and out.dtype == wanted.dtype
    assert gradients.keys() == wanted_gradients.keys() and gradients
    for name, gradient in wanted_gradients.items():
        if gradient is None:
            assert gradients[name] is None
        else:
            assert torch.equal(gradients[name], gradient) and gradient.dtype == gradients[name].dtype, name
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


def inputs_of(models):
    call = models.inputs()
    steered = {"regions": models.levels(2, (16, 16), call["encoder_hidden_states"].shape[1])}
    return {"encoder_hidden_states": call["encoder_hidden_states"], "cross_attention_kwargs": steered}


@pytest.mark.parametrize("form", ["bf16", "fp16", "checkpointed", "channels last"])
@pytest.mark.parametrize("name", METHODS)
def test_no_bit_of_output_and_gradients_is_another(models, name, form):
    if form == "fp16" and name not in ("lora", "decoder"):
        pytest.skip("one of each kind will do")
    dtype = torch.float16 if form == "fp16" else torch.bfloat16
    network, inputs = prepared(name, checkpointing=form == "checkpointed"), inputs_of(models)
    network = to_channels_last(network) if form == "channels last" else network
    picture = torch.rand(2, 3, 128, 128) if name == "controlnet_xs" else None
    wanted = outcome(network, inputs, dtype, picture)
    bits = sum(weight.nbytes for weight in network.parameters())
    precast(network, dtype)
    assert_same(outcome(network, inputs, dtype, picture), wanted)
    frozen, small = frozen_sizes(network)
    assert small >= SHARES.get(name, 0.9) * frozen
    assert sum(weight.nbytes for weight in network.parameters()) == bits - 2 * small
    assert all(weight.dtype == torch.float32 for weight in network.parameters() if weight.requires_grad)
    assert network.dtype == torch.float32


FAMILIES = {
    "sdxl": lambda: small_unet("sdxl"),
    "pixart": small_pixart,
    "flux": small_flux,
    "flux2": small_flux2,
    "sd3": small_sd3,
    "qwen": small_qwen,
    "z_image": small_z_image,
}


@pytest.mark.parametrize("method", ["lora", "lora experts"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_the_family(family, method):
    inputs = {"encoder_hidden_states": torch.randn(2, 5, TEXT_WIDTH)}
    if family in ("flux", "sd3"):
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(2, POOLED_WIDTH)}
    kind = METHODS[method] if method == "lora experts" or family == "sdxl" else Lora(**RANK, conv=False)
    if family not in ("sdxl", "pixart", "flux", "sd3") and method == "lora":
        kind = Lora(**RANK, conv=False, projection=False)
    steered = with_layout(FAMILIES[family](), num_experts=2, region_attention=True, copies=not kind.replaces_experts)
    network = kind.prepare(steered, seed=0).train()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape))
    wanted = outcome(network, inputs, size=(8, 8))
    precast(network, torch.bfloat16)
    assert_same(outcome(network, inputs, size=(8, 8)), wanted)
    frozen, small = frozen_sizes(network)
    assert small > 0.9 * frozen and network.dtype == torch.float32
