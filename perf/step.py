"""How much a whole training step costs with MaMoE, compared with the same stock network on a 77-token prompt.

    python perf/step.py [--quick] [--threads 1] [--only tiny|sd21|tiny_dit|pixart|demo_tiny|demo_tiny_dit]

A step is: conditioning (masks and routings from the layout tables; MaMoE only), forward, mean squared error, backward,
fp32. MaMoE has 5 experts and 20 regions of 5 tokens each beside the 77 of the global prompt. Text encoding is left
out on both sides: embeddings come from a cache in training. The two variants take turns, MaMoE first; a ratio is the
median of the ratios of the rounds, the first of several left out, and beside it stand its quartiles. ``tiny`` is the
UNet of the tiny base model,
``sd21`` the real architecture of Stable Diffusion 2.1 (866 M parameters, random weights), which wants 12 GB of
memory; its fixed cost, gradients of 1.5 times as many weights, shows the more the fewer cells there are. ``tiny_dit``
is the tiny transformer, ``pixart`` one of PixArt-Sigma's form, narrow (width 384, 8 blocks). ``demo_tiny`` and
``demo_tiny_dit`` are steps of `mamoe demo` on either: batches of its streets with its settings, in which pictures have
as many regions and words as they have. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor

from mamoe.assemble.caches import caching_encoder, fill_prompts
from mamoe.assemble.data import layout_settings, splits
from mamoe.bases.pretrained import BaseModel, load_base
from mamoe.bases.tiny import new_transformer, new_unet
from mamoe.conditioning.collate import Collator
from mamoe.conditioning.conditioner import TOKEN_MULTIPLE, Conditioner, text_tokens
from mamoe.conditioning.experts import expert_routings
from mamoe.conditioning.masks import attend_masks, region_coverage, region_masks
from mamoe.config.compose import compose, setting
from mamoe.config.train import Train
from mamoe.console import silent
from mamoe.models.backbones import backbone_of
from mamoe.scenes import write_scenes
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import Conditioning, LevelConditioning, level_grids
from mamoe.vocabulary.layout import ExpertResize, RegionResize

EXPERTS, REGIONS, GLOBAL_TOKENS, REGION_TOKENS = 5, 20, 77, 5
CELL_PIXELS = 64
SHARES = torch.tensor((0.45, 0.30, 0.15, 0.08, 0.02))
SD21 = {
    "sample_size": 96,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
PIXART = {
    "num_layers": 8,
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "cross_attention_dim": 384,
    "sample_size": 64,
    "caption_channels": 1024,
    "use_additional_conditions": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    unet: Callable[[], Any]  # a stock network of whatever family
    batch: int
    size: tuple[int, int]  # latent cells
    rounds: int
    conditionings: Callable[[Case, Any], Callable[[], Conditioning]]  # of a stock network; called anew in every step


def cases(quick: bool) -> tuple[Case, Case]:
    side = 40 if quick else 64
    return (
        Case(
            name="tiny",
            unet=lambda: new_unet(4),
            batch=8,
            size=(16, 32),
            rounds=4 if quick else 16,
            conditionings=cut_in_twenty,
        ),
        Case(
            name="sd21",
            unet=lambda: UNet2DConditionModel(**SD21),
            batch=1,
            size=(side, side),
            rounds=1 if quick else 4,
            conditionings=cut_in_twenty,
        ),
    )


def transformers(quick: bool) -> tuple[Case, Case]:
    side = 32 if quick else 64
    return (
        Case(
            name="tiny_dit",
            unet=lambda: new_transformer(4, text_width=192),
            batch=8,
            size=(16, 32),
            rounds=4 if quick else 16,
            conditionings=cut_in_twenty,
        ),
        Case(
            name="pixart",
            unet=lambda: PixArtTransformer2DModel(**PIXART),
            batch=1,
            size=(side, side),
            rounds=4 if quick else 16,
            conditionings=cut_in_twenty,
        ),
    )


def demos(quick: bool) -> tuple[Case, Case]:
    def case(experiment: str, model: str) -> Case:
        return Case(
            name=experiment,
            unet=lambda: load_base(model).unet.float().requires_grad_(True),
            batch=4,
            size=(16, 32),
            rounds=8 if quick else 32,
            conditionings=lambda case, stock: streets_of(case, stock, load_base(model)),
        )

    return case("demo_tiny", "package:tiny"), case("demo_tiny_dit", "package:tiny_dit")


def cut_in_twenty(case: Case, stock: Any) -> Callable[[], Conditioning]:
    """The conditioning of one batch of pictures cut into 20 regions of 5 tokens, beside a global prompt of 77."""
    generator = torch.Generator().manual_seed(0)
    backbone = backbone_of(stock)
    width, pyramid = backbone.text_width(stock.config), backbone.pyramid(stock.config)
    lengths = [GLOBAL_TOKENS, *itertools.repeat(REGION_TOKENS, REGIONS)]
    embeds = [[torch.randn((n, width), generator=generator) for n in lengths] for _ in range(case.batch)]
    regions = drawn_layouts(case.batch, case.size, generator)
    return lambda: conditioning_of(regions, embeds, pyramid.count, pyramid.skipped)


def streets_of(case: Case, stock: Any, base: BaseModel) -> Callable[[], Conditioning]:
    """The conditioning of batch after batch of an experiment's drawn streets, as its training makes it."""
    pyramid = backbone_of(stock).pyramid(stock.config)
    folder = TemporaryDirectory()  # which is gone with what is returned
    root = Path(folder.name)
    write_scenes(root, counts={"train": 8 * case.batch, "val": 1, "test": 0})
    own = [f"experiment={case.name}", setting("data.root", root), setting("cache.folder", root / "cache")]
    config = Train.model_validate(compose(own))
    settings = layout_settings(config)
    source, _ = splits(config, settings.taxonomy)
    encoder = caching_encoder(config, base)
    fill_prompts(config, encoder, settings, source.prompts, silent)
    conditioner = Conditioner(encoder.from_cache(), settings, pyramid.count, pyramid.skipped)
    collate = Collator(settings)
    starts = range(0, len(source), case.batch)
    batches = [collate([source[start + k] for k in range(case.batch)]).regions for start in starts]
    following = itertools.cycle(batches)
    return lambda kept=folder: conditioner(next(following), device="cpu")


def drawn_layouts(
    batch: int, size: tuple[int, int], generator: torch.Generator, shares: torch.Tensor = SHARES
) -> RegionBatch:
    """Layout tables of ``batch`` pictures cut into 20 regions, each of one expert drawn with its share."""
    height, width = size
    tables = []
    for image in range(batch):
        centres = torch.rand((REGIONS, 2), generator=generator) * torch.tensor(size)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack([rows, columns], dim=2).reshape(-1, 2).float()
        region = torch.cdist(cells, centres).argmin(dim=1)
        expert = torch.multinomial(shares, REGIONS, replacement=True, generator=generator)[region]
        tables.append((torch.full_like(region, image), torch.arange(height * width), region + 1, expert))
    image, cell, region, expert = (torch.cat(column) for column in zip(*tables, strict=True))
    return RegionBatch(
        prompts=tuple(tuple(f"prompt {r}" for r in range(REGIONS + 1)) for _ in range(batch)),
        everywhere=1,
        num_experts=len(shares),
        grid=size,
        cell_pixels=CELL_PIXELS,
        image=image.int(),
        cell=cell.int(),
        region=region.short(),
        expert=expert.short(),
        count=torch.full_like(region, CELL_PIXELS, dtype=torch.uint8),
    )


def conditioning_of(
    regions: RegionBatch, embeds: list[list[Tensor]], num_levels: int, skipped: int = 0
) -> Conditioning:
    """What ``Conditioner`` does once the prompts are encoded."""
    num_levels += skipped
    text = text_tokens(embeds, regions.cell.device, multiple=TOKEN_MULTIPLE)
    masks = region_masks(region_coverage(regions), RegionResize.AREA, 0.5, num_levels)
    attends = attend_masks(masks, text.region, text.valid)
    routings = expert_routings(regions, ExpertResize.NEAREST, num_levels)
    grids = level_grids(regions.grid, num_levels)
    levels = [
        LevelConditioning(grid=grid, attend=attend, routing=routing)
        for grid, attend, routing in zip(grids, attends, routings, strict=True)
    ]
    return Conditioning(text=text, levels=tuple(levels[skipped:]))


def with_experts(stock: Any, num_experts: int = EXPERTS) -> Any:
    """The converted network, its stock part on the stock one's own memory, so that both fit."""
    model = backbone_of(stock).convert(stock, num_experts=num_experts)
    model.load_state_dict(stock.state_dict(), strict=False, assign=True)
    return model


def step(unet: Any, given: dict[str, Tensor], inputs: Callable[[], dict[str, Any]]) -> float:
    """Processor seconds of one step, which neighbours on a busy machine disturb less than the clock."""
    start = time.process_time()
    prediction = unet(given["sample"], timestep=given["timestep"], **inputs()).sample
    F.mse_loss(prediction[:, : given["noise"].shape[1]], given["noise"]).backward()  # PixArt guesses a variance too
    return time.process_time() - start


def drop_gradients_when_made(unet: Any) -> None:
    """Both variants make every gradient, neither keeps them: SD2.1's would take as much memory as its weights."""
    for parameter in unet.parameters():
        parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    seconds: float  # of a stock step
    ratio: float  # of the MaMoE step to it
    quartiles: tuple[float, float]  # of the ratio
    masks: float  # share of the step spent on conditioning


def measure(case: Case) -> Cost:
    torch.manual_seed(0)
    stock = case.unet()
    mamoe = with_experts(stock)
    drop_gradients_when_made(stock)
    drop_gradients_when_made(mamoe)
    channels = stock.config["in_channels"]
    shape = (case.batch, channels, *case.size)
    given = {
        "sample": torch.randn(shape),
        "noise": torch.randn(shape),
        "timestep": torch.randint(1000, (case.batch,)),
    }
    prompt = torch.randn(case.batch, GLOBAL_TOKENS, backbone_of(stock).text_width(stock.config))
    conditioned = case.conditionings(case, stock)

    rounds = []
    for _ in range(case.rounds):
        sparse = step(mamoe, given, lambda: conditioned().unet_inputs())
        dense = step(stock, given, lambda: {"encoder_hidden_states": prompt})
        start = time.process_time()
        conditioned()
        built = time.process_time() - start
        rounds.append((dense, sparse / dense, built / dense))
    seconds, ratios, shares = zip(*(rounds[1:] or rounds), strict=True)
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    medians = [statistics.median(column) for column in (seconds, ratios, shares)]
    return Cost(seconds=medians[0], ratio=medians[1], quartiles=(low, high), masks=medians[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SD2.1 at 40x40 latents, PixArt at 32x32, fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("tiny", "sd21", "tiny_dit", "pixart", "demo_tiny", "demo_tiny_dit"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    result = {}
    print(f"{'network':>14}{'images':>8}{'latents':>9}{'stock s':>9}{'mamoe':>8}{'quartiles':>14}{'masks':>8}")
    for case in (*cases(options.quick), *transformers(options.quick), *demos(options.quick)):
        if options.only in (None, case.name):
            cost = measure(case)
            size, low, high = f"{case.size[0]}x{case.size[1]}", *cost.quartiles
            spread = f"{low:.3f}-{high:.3f}"
            print(
                f"{case.name:>14}{case.batch:8d}{size:>9}{cost.seconds:9.2f}{cost.ratio:8.3f}{spread:>14}{cost.masks:8.4f}"
            )
            result[f"{case.name}_step_ratio"] = round(cost.ratio, 3)
            result[f"{case.name}_conditioning_share"] = round(cost.masks, 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
