"""UNets that take a condition picture: concatenated latents and ControlNet-XS."""

import copy
import logging

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetXSAdapter, UNet2DConditionModel, UNetControlNetXSModel

from mamoe.errors import ConfigError, MamoeError
from mamoe.methods.concat import Concat
from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.models.control.call import Control, control_input, control_of, predict
from mamoe.models.control.concat import widened
from mamoe.models.control.controlnet_xs import ControlledUNet, branch_widths, load_branch, new_branch
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.adapter import load_adapter, save_adapter, trained_names
from mamoe.vocabulary.conditioning import LevelConditioning

SIZE = (8, 12)
TWO = {"layers_per_block": 2}  # as Stable Diffusion


def condition(batch=2, seed=3):
    return torch.rand((batch, 3, 8 * SIZE[0], 8 * SIZE[1]), generator=torch.Generator().manual_seed(seed))


def given(models, batch=2):
    inputs = models.inputs(batch=batch, size=SIZE)
    return inputs.pop("sample"), inputs.pop("timestep"), inputs


def laid_out(inputs, levels):
    return {**inputs, "cross_attention_kwargs": {"regions": levels}}


def largest_difference(a, b):
    return (a - b).abs().max().item()


def moved(models, branch):
    models.trained(branch)
    return branch


# Concatenation.


@pytest.mark.parametrize("steered", [False, True])
@torch.no_grad()
def test_a_condition_equal_to_the_latent_gives_the_stock_unet(models, steered):
    base = models.mamoe() if steered else models.unet()
    before = copy.deepcopy(base.state_dict())
    wide = widened(base)
    noisy, t, inputs = given(models)
    if steered:
        inputs = laid_out(inputs, models.levels(2, SIZE, 7))
    assert type(wide) is type(base) and control_of(wide) is Control.LATENT and control_of(base) is None
    wanted = predict(base, noisy, t, inputs)
    assert largest_difference(predict(wide, noisy, t, inputs, noisy), wanted) < 1e-5
    assert largest_difference(predict(wide, noisy, t, inputs, noisy.flip(3)), wanted) > 1e-3
    models.trained(wide)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@torch.no_grad()
def test_a_widened_unet_is_an_ordinary_unet_on_disk(models, tmp_path):
    for base, kind in ((models.unet(), UNet2DConditionModel), (models.mamoe(), MaMoEUNet2DConditionModel)):
        wide = models.trained(widened(base))
        wide.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__, use_safetensors=True)
        noisy, t, inputs = given(models)
        assert torch.equal(predict(again, noisy, t, inputs, noisy * 2), predict(wide, noisy, t, inputs, noisy * 2))


def test_a_condition_is_neither_forgotten_nor_ignored(models):
    noisy, t, inputs = given(models)
    with pytest.raises(ValueError, match=r"takes a condition picture \(latent\), got none"):
        predict(widened(models.unet()), noisy, t, inputs)
    with pytest.raises(ValueError, match="takes no condition picture, got one"):
        predict(models.unet(), noisy, t, inputs, noisy)


# ControlNet-XS.


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("steered", [False, True])
@torch.no_grad()
def test_a_new_branch_changes_nothing_whatever_the_picture(models, steered, layers):
    base = models.unet(layers_per_block=layers)
    levels = models.levels(2, SIZE, 7)
    noisy, t, inputs = given(models)
    if steered:
        base = models.trained(MaMoEUNet2DConditionModel.from_unet(base, num_experts=3, learned_strength=True))
        inputs = laid_out(inputs, levels)
    wanted = predict(base, noisy, t, inputs)
    unet = ControlledUNet(base, new_branch(base))
    assert control_of(unet) is Control.PICTURE
    assert largest_difference(predict(unet, noisy, t, inputs, condition()), wanted) < 1e-5
    moved(models, unet.branch)
    assert largest_difference(predict(unet, noisy, t, inputs, condition()), wanted) > 1e-3


@pytest.mark.parametrize("shape", ["sd15", "sd21", "sdxl"])
@torch.no_grad()
def test_it_computes_what_the_network_of_diffusers_computes(models, shape):
    # diffusers copies both into layers of its own choice: this epsilon, and in every block of the branch the number of
    # groups of the first layer, which is that of all layers for these widths (and for Stable Diffusion's usual ones).
    noisy, t, inputs = given(models)
    embedded = {}
    if shape == "sdxl":
        embedded = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        embedded["projection_class_embeddings_input_dim"] = 6 * 8 + 16
        origin = {"text_embeds": torch.randn(2, 16), "time_ids": torch.randint(0, 512, (2, 6)).float()}
        inputs = {**inputs, "added_cond_kwargs": origin}
    base = models.unet(shape, norm_eps=1e-6, **TWO, **embedded)
    branch = moved(models, new_branch(base, (16, 32, 32)))
    theirs = UNetControlNetXSModel.from_unet(base, copy.deepcopy(branch)).eval()
    unet = ControlledUNet(base, branch).eval()
    wanted = theirs(noisy, t, **inputs, controlnet_cond=condition()).sample
    assert largest_difference(predict(unet, noisy, t, inputs, condition()), wanted) < 1e-4


@torch.no_grad()
def test_the_branch_is_an_adapter_of_diffusers_on_disk(models, tmp_path):
    base = models.unet(**TWO)
    unet = ControlledUNet(base, moved(models, new_branch(base)))
    unet.branch.save_pretrained(tmp_path)
    again = ControlledUNet(base, ControlNetXSAdapter.from_pretrained(tmp_path, use_safetensors=True))
    noisy, t, inputs = given(models)
    assert torch.equal(predict(again, noisy, t, inputs, condition()), predict(unet, noisy, t, inputs, condition()))


@pytest.mark.parametrize("soft", [False, True])
@torch.no_grad()
def test_the_branch_reads_no_regions_and_no_padding(models, soft):
    base = MaMoEUNet2DConditionModel.from_unet(models.unet(**TWO), num_experts=3)
    unet = ControlledUNet(base, moved(models, new_branch(base)))
    blocks = [m for m in unet.branch.modules() if isinstance(m, MaMoETransformerBlock)]
    assert blocks and not any(b.region_attention or b.strength or hasattr(b.ff, "experts") for b in blocks)
    noisy, t, inputs = given(models)
    levels = []
    for level in models.levels(2, SIZE, 7):
        level.attend[:, :, 5:] = False  # two tokens of padding
        attend = level.attend.float().log() if soft else level.attend
        levels.append(LevelConditioning(grid=level.grid, attend=attend, routing=level.routing))
    changed = {"encoder_hidden_states": inputs["encoder_hidden_states"].clone()}
    changed["encoder_hidden_states"][:, 5:] += 3.0
    one = predict(unet, noisy, t, laid_out(inputs, tuple(levels)), condition())
    other = predict(unet, noisy, t, laid_out(changed, tuple(levels)), condition())
    assert torch.equal(one, other)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_mates(models):
    base = models.unet(**TWO)
    unet = ControlledUNet(base, moved(models, new_branch(base)))
    noisy, t, inputs = given(models)
    both = predict(unet, noisy, t, inputs, condition())
    alone = predict(unet, noisy[:1], t[:1], {k: v[:1] for k, v in inputs.items()}, condition()[:1])
    assert largest_difference(both[:1], alone) < 1e-5 and largest_difference(both[:1], both[1:]) > 1e-2


def test_gradients_reach_the_branch_alone_and_survive_checkpointing(models):
    base = MaMoEUNet2DConditionModel.from_unet(models.unet(**TWO), num_experts=3).requires_grad_(False)
    unet = ControlledUNet(base, moved(models, new_branch(base))).train()
    noisy, t, inputs = given(models)
    inputs = laid_out(inputs, models.levels(2, SIZE, 7))
    trained = [p for p in unet.parameters() if p.requires_grad]
    assert len(trained) == len(list(unet.branch.parameters()))
    wanted = torch.autograd.grad(predict(unet, noisy, t, inputs, condition()).square().sum(), trained)
    unet.enable_gradient_checkpointing()
    got = torch.autograd.grad(predict(unet, noisy, t, inputs, condition()).square().sum(), trained)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.0, rtol=0.0)
    assert sum(gradient.abs().sum() > 0 for gradient in wanted) > 0.9 * len(wanted)


@torch.no_grad()
def test_it_can_be_copied_and_logs_no_warning(models, caplog):
    base = MaMoEUNet2DConditionModel.from_unet(models.unet(**TWO), num_experts=3)
    unet = ControlledUNet(base, moved(models, new_branch(base)))
    twin = copy.deepcopy(unet)
    names = list(unet.state_dict())
    assert all(name.startswith(("base.", "branch.")) for name in names)
    noisy, t, inputs = given(models)
    inputs = laid_out(inputs, models.levels(2, SIZE, 7))
    wanted = predict(unet, noisy, t, inputs, condition())
    models.trained(unet)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        assert torch.equal(predict(twin, noisy, t, inputs, condition()), wanted)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_widths_of_the_branch_follow_the_thesis():
    assert branch_widths(4) == (4, 8, 16, 16) and branch_widths(3) == (4, 8, 16)


@pytest.mark.parametrize(
    ("changes", "widths", "said"),
    [
        ({"layers_per_block": 3}, None, "1 or 2 layers per block, got 3"),
        ({"in_channels": 8}, None, "4 latent channels, got 8 and 4"),
        ({}, (4, 8), r"3 widths that are multiples of 4, got \(4, 8\)"),
        ({}, (4, 8, 10), r"got \(4, 8, 10\)"),
    ],
)
def test_unets_that_do_not_fit_are_told(models, changes, widths, said):
    with pytest.raises(ConfigError, match=f"ControlNet-XS does not fit this UNet: .*{said}"):
        new_branch(models.unet(**changes), widths)


def test_pictures_that_do_not_fit_are_told(models):
    base = models.unet(**TWO)
    unet = ControlledUNet(base, new_branch(base))
    noisy, t, inputs = given(models)
    with pytest.raises(MamoeError, match=r"multiples of 32 pixels, got \(64, 80\)"):
        predict(unet, noisy[..., :10], t, inputs, condition()[..., :80])
    with pytest.raises(ValueError, match=r"\[B 3 H W\] of \(2, 3, 64, 96\), got \(2, 3, 64, 80\)"):
        predict(unet, noisy, t, inputs, condition()[..., :80])


# As methods.


def prepared(models, method, seed=3):
    return method.prepare(MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3), seed=seed)


def shaken(unet):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return unet


def test_what_trains(models):
    names = trained_names(prepared(models, ControlNetXS()))
    assert {name.split(".")[0] for name in names} == {"branch", "base"}
    assert all(".ff.experts." in name for name in names if name.startswith("base."))
    everything = prepared(models, ControlNetXS(train_base=True))
    assert trained_names(everything) == [name for name, _ in everything.named_parameters()]
    wide = prepared(models, Concat())
    assert trained_names(wide) == [name for name, _ in wide.named_parameters()]


def test_the_seed_decides_the_branch(models):
    state = torch.get_rng_state()
    first, same, other = (prepared(models, ControlNetXS(), seed).branch.conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    torch.set_rng_state(state)


@torch.no_grad()
def test_an_adapter_brings_back_what_was_learned(models, tmp_path):
    for number, method in enumerate((ControlNetXS(), ControlNetXS(train_base=True, widths=(8, 8, 16)))):
        learned = shaken(prepared(models, method))
        save_adapter(learned, learned.state_dict(), tmp_path / str(number))
        again = prepared(models, method, seed=9)
        load_adapter(again, tmp_path / str(number))
        noisy, t, inputs = given(models)
        inputs = laid_out(inputs, models.levels(2, SIZE, 7))
        assert torch.equal(
            predict(again, noisy, t, inputs, condition()), predict(learned, noisy, t, inputs, condition())
        )
    with pytest.raises(ConfigError, match="does not fit this model"):
        load_adapter(prepared(models, ControlNetXS()), tmp_path / "1")


@torch.no_grad()
def test_a_branch_is_read_for_its_own_base_alone(models, tmp_path):
    base = models.unet()
    branch = moved(models, new_branch(base, (8, 8, 16)))
    branch.save_pretrained(tmp_path)
    again = load_branch(base, tmp_path)
    assert all(torch.equal(value, branch.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(ConfigError, match="was made for another UNet"):
        load_branch(models.unet(block_out_channels=(32, 32, 32)), tmp_path)


def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    ).eval()


@torch.no_grad()
def test_an_empty_picture_is_zeros_in_either_form():
    vae = autoencoder()
    pictures = (condition() * 255).to(torch.uint8)
    pictures[0] = 0
    plain = control_input(Control.PICTURE, pictures)
    assert torch.equal(plain, pictures.float() / 255)
    latents = control_input(Control.LATENT, pictures, vae)
    assert not latents[0].any() and latents[1].std() > 0
    mean = vae.encode(pictures[1:].float() / 127.5 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(latents[1:], mean, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_half_precision_encodes_a_condition_without_overflow():
    vae, pictures = autoencoder(), (condition() * 255).to(torch.uint8)
    vae.encoder.conv_in.weight *= 2e5  # activations beyond 65504
    wanted = control_input(Control.LATENT, pictures, vae)
    vae.half()
    assert not vae.encode(pictures.half() / 127.5 - 1).latent_dist.mean.isfinite().all()
    safe = control_input(Control.LATENT, pictures, vae)
    assert vae.dtype == torch.float16
    torch.testing.assert_close(safe, wanted, atol=0.02, rtol=0.02)
