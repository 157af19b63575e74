"""Frozen weights in the format autocast computes in: outputs and gradients are the same to the bit, norms stay."""

import copy

import pytest
import torch
from torch import nn

from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.methods.decoder import Decoder
from mamoe.methods.dora import Dora
from mamoe.methods.full import Full
from mamoe.methods.lora import Lora, to_channels_last
from mamoe.methods.lora_experts import LoraExperts
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.experts.moe import MoEFeedForward, prepare_experts
from mamoe.models.precast import frozen_sizes, precast
from small_models import (
    POOLED_WIDTH,
    TEXT_WIDTH,
    small_autoencoder,
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
CASES = [(name, form) for name in METHODS for form in ("bf16", "checkpointed", "channels last")]
CASES += [("lora", "fp16"), ("decoder", "fp16")]
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


@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_bit_of_output_and_gradients_is_another(models, name, form):
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


def on_a_gpu(monkeypatch):
    """Autocast on a CPU stands in for a GPU's: norms are widened, small weights cast at once, experts one product."""
    for place in ("norms", "casting"):
        monkeypatch.setattr(f"mamoe.models.blocks.{place}.widens_norms", lambda _: torch.is_autocast_enabled("cpu"))
    for place in ("grouped", "lora"):
        monkeypatch.setattr(f"mamoe.models.experts.{place}.grouped_suits", lambda rows: True)


@pytest.mark.parametrize("name", ["decoder", "lora", "lora experts", "controlnet_xs"])
def test_nor_the_way_a_gpu_computes(models, name, monkeypatch):
    on_a_gpu(monkeypatch)
    network, inputs = prepared(name), inputs_of(models)
    picture = torch.rand(2, 3, 128, 128) if name == "controlnet_xs" else None
    wanted = outcome(network, inputs, picture=picture)
    precast(network, torch.bfloat16)
    prepare_experts(network)
    assert_same(outcome(network, inputs, picture=picture), wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("compilable")
def test_what_a_compiler_traces_is_the_same_to_rounding(models):
    """It orders sums of gradients in its own way: another one without the casts."""
    network, inputs = prepared("lora experts"), inputs_of(models)
    whole = copy.deepcopy(network)
    precast(network, torch.bfloat16)
    for one in (network, whole):
        one.compile(backend="aot_eager")
    (out, gradients), (wanted, wanted_gradients) = outcome(network, inputs), outcome(whole, inputs)
    assert torch.equal(out, wanted)
    for name, gradient in wanted_gradients.items():
        assert (gradients[name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_small_weights_are_cast_at_once_where_others_are_in_that_format_already(models, monkeypatch):
    on_a_gpu(monkeypatch)
    network, seen = prepared("lora"), []
    precast(network, torch.bfloat16)

    def look(layer, _):
        seen.append((layer.norm1.weight.dtype, layer.conv1.get_base_layer().bias.dtype))

    network.mid_block.resnets[0].register_forward_pre_hook(look)
    outcome(network, inputs_of(models))
    assert seen == [(torch.bfloat16, torch.bfloat16)]
    assert network.mid_block.resnets[0].norm1.weight.dtype == torch.float32


def test_frozen_experts_stay_beside_those_that_learn(models):
    network = prepared("controlnet_xs")
    precast(network, torch.bfloat16)
    mixed = [layer for layer in network.base.modules() if isinstance(layer, MoEFeedForward)]
    assert mixed and all(p.dtype == torch.float32 for layer in mixed for p in layer.parameters())


def test_what_dora_adapts_is_merged_as_before():
    whole = prepared("dora")
    network = copy.deepcopy(whole)
    changed = precast(network, torch.bfloat16, keep=True)
    wanted = dict(METHODS["dora"].merged(whole).named_parameters())
    merged = {name: w for name, w in METHODS["dora"].merged(network).named_parameters() if name not in changed}
    assert merged and all(torch.equal(weight, wanted[name]) for name, weight in merged.items())


def test_pictures_and_latents_are_the_same(models):
    vae = small_autoencoder().requires_grad_(False)
    pictures, latents = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 8, 8).requires_grad_()

    def seen():
        with torch.autocast("cpu", torch.bfloat16):
            posterior, drawn = posterior_of(vae, pictures.to(vae.dtype)), decoded(vae, latents.to(vae.dtype))
        return posterior.mean, posterior.std, drawn, *torch.autograd.grad(drawn.float().square().sum(), latents)

    wanted = seen()
    precast(vae, torch.bfloat16)
    assert all(torch.equal(got, before) for got, before in zip(seen(), wanted, strict=True))
    assert frozen_sizes(vae)[1] > 0 and vae.dtype == torch.float32


def test_an_autoencoder_that_overflows_in_float16_stays():
    vae = small_autoencoder(force_upcast=True).requires_grad_(False)
    assert precast(vae, torch.float16, keep=True) == {} and all(p.dtype == torch.float32 for p in vae.parameters())
    assert precast(vae, torch.bfloat16, keep=True)


def test_what_others_read_stays():
    class Own(nn.Linear):
        def forward(self, x):
            return x + self.weight.sum()

    network = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8), Own(8, 8), nn.LayerNorm(8)).requires_grad_(False)
    network[1].weight = network[0].weight  # as language models tie what goes in and what comes out
    originals = precast(network, torch.bfloat16, keep=True)
    assert list(originals) == ["1.bias"] and originals["1.bias"].dtype == torch.float32
    assert {p.dtype for name, p in network.named_parameters() if name != "1.bias"} == {torch.float32}
    assert precast(network, torch.bfloat16, keep=True) == {}


def test_what_a_weight_is_computed_of_stays():
    layer = nn.Conv2d(16, 16, 3)
    nn.utils.weight_norm(layer)
    picture = torch.randn(1, 16, 8, 8)

    def seen():
        with torch.autocast("cpu", torch.bfloat16):
            return layer(picture)

    wanted = seen()
    assert list(precast(layer.requires_grad_(False), torch.bfloat16, keep=True)) == ["bias"]
    assert torch.equal(seen(), wanted)


def test_a_network_that_trains_as_a_whole_stays():
    network = Full().prepare(small_unet(), seed=0)
    assert precast(network, torch.bfloat16, keep=True) == {} and frozen_sizes(network) == (0, 0)
