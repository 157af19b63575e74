"""A region's text enters at the cells that may attend it and nowhere else, whatever the backbone is."""

import pytest
import torch

from mamoe.methods.lora import Lora
from mamoe.methods.lora_experts import LoraExperts
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.leaks import leaks_of
from mamoe.vocabulary.conditioning import LevelConditioning, level_grids
from small_models import POOLED_WIDTH, TEXT_WIDTH, hard_routing

SIZE, TOKENS = (12, 16), 9  # latent cells; tokens of the whole picture (3), the left region (3) and the right one (3)
RIGHT = torch.arange(TOKENS) >= 6
REGION = (torch.arange(TOKENS) // 3)[None]  # whose token
# Maker of a stock one, halvings skipped, levels.
FAMILIES = {
    "unet": ("unet", 0, 3),
    "pixart": ("pixart", 1, 1),
    "flux": ("flux", 1, 1),
    "flux2": ("flux2", 1, 1),
    "sd3": ("sd3", 1, 1),
    "qwen": ("qwen", 1, 1),
    "z_image": ("z_image", 1, 1),
}
ONE_BLOCK = {
    "pixart": ("pixart", {"num_layers": 1}),
    "flux, double": ("flux", {"num_layers": 1, "num_single_layers": 0}),
    "flux, single": ("flux", {"num_layers": 0, "num_single_layers": 1}),
    "flux2, double": ("flux2", {"num_layers": 1, "num_single_layers": 0}),
    "flux2, single": ("flux2", {"num_layers": 0, "num_single_layers": 1}),
    "sd3": ("sd3", {"num_layers": 1}),
    "qwen": ("qwen", {"num_layers": 1}),
    "z_image": ("z_image", {"n_layers": 1}),
}
FORMS = ["plain", "checkpointed", "lora"]


def halves(skipped, count, *, masked=True):
    """A layout of two regions, left and right, each with an expert of its own."""
    levels = []
    for grid in level_grids(SIZE, skipped + count)[skipped:]:
        right = (torch.arange(grid[1]) >= grid[1] / 2).repeat(grid[0])
        sees = torch.ones(len(right), TOKENS, dtype=torch.bool)
        if masked:
            sees[:, 3:6], sees[:, 6:] = ~right[:, None], right[:, None]
        routing = hard_routing(right.long()[None], 2)
        region = REGION if masked else torch.zeros_like(REGION)
        levels.append(LevelConditioning(grid=grid, attend=sees[None], routing=routing, region=region))
    return tuple(levels)


def text(**changes):
    embeds = torch.randn((1, TOKENS, TEXT_WIDTH), generator=torch.Generator().manual_seed(5))
    return embeds if not changes else torch.where(RIGHT[:, None], embeds * 3 + 1, embeds)


def steered(network, embeds, levels):
    """Keyword arguments of a call with a layout."""
    inputs = {"encoder_hidden_states": embeds, "cross_attention_kwargs": {"regions": levels}}
    if backbone_of(network).pooled_width(network.config):
        pooled = torch.randn((1, POOLED_WIDTH), generator=torch.Generator().manual_seed(7))
        inputs["added_cond_kwargs"] = {"text_embeds": pooled}
    return inputs


def noisy():
    return torch.randn((1, 4, *SIZE), generator=torch.Generator().manual_seed(6))


def made(models, family, form="plain", **changes):
    stock = getattr(models, FAMILIES[family][0])(**changes)
    network = models.trained(with_layout(stock, num_experts=2))
    if backbone_of(network).routed is not None and form != "lora":
        network = models.trained(LoraExperts(rank=4, alpha=4).prepare(network, seed=0))
    if form == "lora":
        # FLUX.2's single blocks and the last ones of SD3 and Qwen-Image have no feed-forward beside the experts'.
        has_own = (family, changes.get("num_layers")) not in (("flux2", 0), ("sd3", 1), ("qwen", 1))
        network = models.trained(
            Lora(rank=4, alpha=4, conv=family == "unet", feed_forward=has_own).prepare(network, seed=0)
        )
    if form == "checkpointed":
        network.train().enable_gradient_checkpointing()
    return network


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_layer_text_enters_where_the_layout_lets_it(models, family, form):
    network, levels = made(models, family, form), halves(*FAMILIES[family][1:])
    inputs = steered(network, text(), levels)
    found = leaks_of(network, lambda: predict(network, noisy(), 500, inputs), levels, RIGHT)
    assert len(found) >= 2
    for leak in found:
        assert leak.outside == 0.0 and leak.gradient == 0.0 and leak.inside > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_test_finds_a_leak(models, family):
    # The layer is told of no mask: the other half's text reaches everywhere.
    network, levels = made(models, family), halves(*FAMILIES[family][1:])
    open_ = halves(*FAMILIES[family][1:], masked=False)
    inputs = steered(network, text(), open_)
    for leak in leaks_of(network, lambda: predict(network, noisy(), 500, inputs), levels, RIGHT):
        assert leak.outside > 1e-3 and leak.gradient > 0


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ONE_BLOCK)
def test_of_one_block_the_other_half_stays_as_it_is(models, kind, form, masked):
    # Nothing mixes cells behind the only block of a transformer, so the picture itself shows what leaks.
    family, sizes = ONE_BLOCK[kind]
    network, levels = made(models, family, form, **sizes), halves(1, 1, masked=masked)
    outputs, gradient = [], None
    for embeds in (text(), text(other=True)):
        embeds.requires_grad_()
        inputs = steered(network, embeds, levels)
        out = predict(network, noisy(), 500, inputs)
        (gradient,) = torch.autograd.grad(out[..., : SIZE[1] // 2].square().sum(), embeds)
        outputs.append(out.detach())
    change = (outputs[1] - outputs[0]).abs()
    left, right = change[..., : SIZE[1] // 2].max().item(), change[..., SIZE[1] // 2 :].max().item()
    assert right > 1e-3
    assert (left == 0.0) if masked else (left > 1e-3)
    assert (gradient[:, RIGHT].abs().max().item() == 0.0) == masked
