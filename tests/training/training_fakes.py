"""A world small enough to train in a second: random pictures, an 8x8 latent UNet, a text table as the encoder."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mamoe.diffusion.schedules import make_scheduler
from mamoe.models.latents import LatentScaling
from mamoe.randomness import generator_for
from mamoe.runs.recipe import Recipe, Terms
from mamoe.runs.source import Source
from mamoe.training.loop import fit as loop
from mamoe.training.loop.saving import BestBy
from mamoe.training.optim import cosine_with_warmup, make_adam
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.parts import Networks, Objective, Optimization
from mamoe.training.watch.validation import FixedLoss
from mamoe.vocabulary.batch import Batch, RegionBatch
from mamoe.vocabulary.conditioning import Conditioning, TextTokens
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.taxonomy import Taxonomy
from small_models import two_level_unet

WIDTH = 16  # text width


class Pictures:
    """``size`` random pictures of 16x16 pixels, the same for every (epoch, index)."""

    def __init__(self, size: int = 10, fails_at: int | None = None) -> None:
        self.size, self.fails_at = size, fails_at

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key) -> Sample:
        epoch, index = key
        if index == self.fails_at:
            from mamoe.errors import DatasetError

            raise DatasetError(f"images/{index:03d}.png cannot be read.")
        image = torch.randint(256, (3, 16, 16), generator=generator_for(7, "picture", epoch, index)).to(torch.uint8)
        zeros = np.zeros((16, 16))
        panoptic = PanopticMap(segment_id=zeros.astype(np.int32), class_id=zeros.astype(np.uint8))
        prompts = RegionPrompts(global_prompt=f"word{index}")
        return Sample(key=f"{index:03d}.png", index=index, epoch=epoch, image=image, panoptic=panoptic, prompts=prompts)


def collate(samples: list[Sample]) -> Batch:
    size = len(samples)
    rows = torch.arange(size, dtype=torch.int32)
    regions = RegionBatch(
        prompts=tuple((s.prompts.global_prompt,) for s in samples),
        everywhere=1,
        num_experts=1,
        grid=(8, 8),
        cell_pixels=4,
        image=rows,
        cell=torch.zeros_like(rows),
        region=torch.zeros(size, dtype=torch.int16),
        expert=torch.zeros(size, dtype=torch.int16),
        count=torch.full((size,), 4, dtype=torch.uint8),
    )
    return Batch(
        keys=tuple(s.key for s in samples),
        index=torch.tensor([s.index for s in samples]),
        epoch=torch.tensor([s.epoch for s in samples]),
        image=torch.stack([s.image for s in samples]),
        regions=regions,
    )


def tiny_unet(dropout: float = 0.0) -> UNet2DConditionModel:
    return two_level_unet(WIDTH, dropout)


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(4, 4),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )


class TextTable(torch.nn.Module):
    """A prompt's hash picks its two token vectors; a stand-in for a text encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = torch.nn.Embedding(64, 2 * WIDTH)

    def forward(self, prompts: list[str]) -> torch.Tensor:
        rows = torch.tensor([sum(map(ord, p)) % 64 for p in prompts], device=self.table.weight.device)
        return self.table(rows).view(len(prompts), 2, WIDTH)


def condition(text: TextTable, regions: RegionBatch, device: torch.device, dtype: torch.dtype) -> Conditioning:
    embeds = text([prompts[0] for prompts in regions.prompts]).to(device, dtype)
    valid = torch.ones(embeds.shape[:2], dtype=torch.bool, device=device)
    return Conditioning(text=TextTokens(embeds=embeds, valid=valid, region=torch.zeros_like(valid).long()), levels=())


def make_module(kind: type[DiffusionModule] = DiffusionModule, **changes) -> DiffusionModule:
    text = TextTable()
    settings = {
        "unet": tiny_unet(),
        "vae": tiny_vae(),
        "scaling": LatentScaling(factor=0.18215),
        "text_encoder": text,
        "conditioner": functools.partial(condition, text),
        "scheduler": make_scheduler("v", zero_snr=True),
        "optimizer": functools.partial(make_adam, lr=1e-3),
        "lr_scheduler": functools.partial(cosine_with_warmup, total_steps=12, warmup_steps=2),
        "prompt_dropout": 0.3,
        "ema_decay": 0.9,
        "seed": 5,
    }
    given = {**settings, **changes}
    parts = [kind_of(**_taken(given, kind_of)) for kind_of in (Networks, Objective, Optimization)]
    return kind(*parts, **given)


RECIPE = Recipe(
    base=Source(path="tiny"), scheduler={}, terms=Terms(layout=LayoutSettings(taxonomy=Taxonomy.load("scenes")))
)


def fit(module: DiffusionModule, data: LayoutDataModule, run: Path, **options) -> loop.FitResult:
    """The real one, told the fields of its records one by one."""
    renamed = {"checkpoint_every_n_steps": "every_n_steps", "keep_last": "last"}
    given = {"recipe": RECIPE} | {renamed.get(name, name): value for name, value in options.items()}
    keeping, watching = (kind(**_taken(given, kind)) for kind in (loop.Keeping, loop.Watching))
    return loop.fit(module, data, run, keeping=keeping, watching=watching, **given)


def _taken(given: dict, kind: type) -> dict:
    """The fields of a record, taken out of what is given."""
    return {field.name: given.pop(field.name) for field in dataclasses.fields(kind) if field.name in given}


def make_data(size: int = 10, batch_size: int = 4, **changes) -> LayoutDataModule:
    return LayoutDataModule(
        **{"train": Pictures(size), "collate": collate, "batch_size": batch_size, "seed": 3, **changes}
    )


CPU = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 0.5}


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def batch_of(*indices: int, epoch: int = 0) -> Batch:
    data = Pictures(16)
    return collate([data[epoch, i] for i in indices])


def train_watched(run: Path, devices: int) -> dict:
    """Train four steps; this process's final weights and the (epoch, index) keys of each of its batches."""
    # Plain gradient descent: Adam would blow up rounding errors where a gradient is zero.
    module, seen, drawn = make_module(optimizer=functools.partial(torch.optim.SGD, lr=0.1)), [], {}
    step, loss_of = module.training_step, module.loss_per_image

    def watched(batch, batch_idx):
        seen.append(list(zip(batch.epoch.tolist(), batch.index.tolist(), strict=True)))
        return step(batch, batch_idx)

    def drawing(latents, regions, draws, *others, **options):
        if module.training:
            for i, key in enumerate(seen[-1]):
                drawn[key] = torch.cat([draws.timesteps[i : i + 1], draws.dropped[i : i + 1], draws.noise[i].flatten()])
        return loss_of(latents, regions, draws, *others, **options)

    module.loss_per_image = drawing  # type: ignore[method-assign]
    module.training_step = watched  # type: ignore[method-assign]
    loss = FixedLoss(name="val/loss", data=Pictures(5), collate=collate, count=5, batch_size=2, every_n_steps=2)
    settings = {**CPU, "devices": devices, "accumulate_grad_batches": 2}
    fit(
        module,
        make_data(),
        run,
        max_steps=4,
        checkpoint_every_n_steps=2,
        log_every_n_steps=1,
        trainer=settings if devices == 1 else {**settings, "strategy": "ddp"},
        callbacks=[loss],
        best_by=BestBy(metric="val/loss"),
    )
    return {"weights": weights(module.unet), "seen": seen, "drawn": drawn}
