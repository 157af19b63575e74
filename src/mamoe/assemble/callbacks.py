"""The configured callbacks and loggers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import nn

from mamoe.bases.pretrained import load_text, load_vae
from mamoe.conditioning.collate import Collator
from mamoe.config.drawn import Drawn
from mamoe.config.targets import instantiate
from mamoe.config.train import FIXED_LOSSES, Train
from mamoe.data.dataset import LayoutDataset
from mamoe.diffusion.sampler import sampler_for
from mamoe.diffusion.schedules import Schedule
from mamoe.errors import ConfigError
from mamoe.evaluation.distances.family import Kind
from mamoe.evaluation.features.extractors import load_extractor
from mamoe.models.precast import precast
from mamoe.runs.source import Source
from mamoe.sampling.batches import sample_batch
from mamoe.sampling.components import components_of
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.storage.staging import write_whole
from mamoe.training.loop.saving import BestBy
from mamoe.training.scale.cluster import is_first_process
from mamoe.training.step.module import DiffusionModule
from mamoe.training.watch.patience import Patience
from mamoe.training.watch.samples import Draw, SampleGrids
from mamoe.training.watch.scoring import FixedScores
from mamoe.training.watch.validation import FixedLoss
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.selection import spread

WANDB_ID = "wandb-id.txt"


def training_loggers(config: Train, run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = [instantiate(spec, "logger.extra") for spec in config.logger.extra]
    try:
        if config.logger.tensorboard:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
        if config.logger.wandb is not None:
            from lightning.pytorch.loggers import WandbLogger

            wandb = config.logger.wandb
            loggers.append(
                WandbLogger(
                    save_dir=run_dir,
                    name=f"{config.name}/{run_dir.name}",
                    id=_wandb_id(run_dir),
                    resume="allow",
                    project=wandb.project,
                    entity=wandb.entity,
                    offline=wandb.mode == "offline",
                )
            )
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger: {error}. Install it: pip install 'mamoe[tensorboard,wandb]'.") from None
    return loggers


def _wandb_id(run_dir: Path) -> str:
    """The run's id at W&B, the same in every session; runs from before it was kept have it in their wandb/ folder."""
    path = run_dir / WANDB_ID
    if not path.exists():
        earlier = sorted((run_dir / "wandb").glob("*run-*-*"))
        made = earlier[-1].name.rpartition("-")[2] if earlier else secrets.token_hex(4)
        if not is_first_process():  # it alone talks to W&B
            return made
        write_whole(made + "\n", path)
    return path.read_text(encoding="utf-8").strip()


def training_callbacks(
    config: Train,
    settings: LayoutSettings,
    *,
    trains: LayoutDataset,
    validates: LayoutDataset,
    shown: LayoutDataset,
    collate: Collator,
    run_dir: Path,
    sampler: PictureSampler,
) -> list[Callback]:
    """The callbacks of a training.

    Args:
        trains: the training pictures without augmentation.
        shown: the validation split with its pictures as pixels, for grids and scores.
    """
    callbacks: list[Callback] = [instantiate(spec, "callbacks.extra") for spec in config.callbacks.extra]
    if (fixed := config.callbacks.validation) is not None:
        common: dict[str, Any] = {
            "collate": collate,
            "count": fixed.images,
            "batch_size": config.data.batch_size,
            "every_n_steps": fixed.every,
            "seed": config.seed,
            "use_ema": True,
        }
        callbacks.append(FixedLoss(name="val/loss", data=validates, **common))
        callbacks.append(FixedLoss(name="train/stable_loss", data=trains, **common))
    if (samples := config.callbacks.samples) is not None:
        callbacks.append(
            SampleGrids(
                run_dir,
                sampler=sampler,
                samples=[shown[0, i] for i in spread(range(len(shown)), samples.images)],
                taxonomy=settings.taxonomy,
                modes=samples.modes,
                every_n_steps=samples.every,
                drawing=_drawing(samples, config.seed),
            )
        )
    if (scores := config.callbacks.scores) is not None:
        name, _, source = scores.extractor.partition("=")
        callbacks.append(
            FixedScores(
                run_dir,
                sampler=sampler,
                samples=[shown[0, i] for i in spread(range(len(shown)), scores.images)],
                extractor=load_extractor(name, Path(source) if source else None),
                kinds=[Kind(kind) for kind in scores.scores],
                every_n_steps=scores.every,
                drawing=replace(_drawing(scores, config.seed), mode=scores.mode),
                keep_pictures=scores.keep_pictures,
            )
        )
    return callbacks


def _drawing(how: Drawn, seed: int) -> Drawing:
    return Drawing(steps=how.steps, guidance_scale=how.guidance_scale, seed=seed)


def best_by(config: Train) -> BestBy | None:
    """What the best checkpoint goes by, if that is measured."""
    best = config.callbacks.checkpoints.best
    if best is None or (best.metric in FIXED_LOSSES and config.callbacks.validation is None):
        return None
    return BestBy(metric=best.metric, mode=best.mode)


def patience(config: Train) -> Patience | None:
    """How long a training goes on without a better score, if there is a limit."""
    stopping = config.callbacks.early_stopping
    if stopping is None:
        return None
    by = BestBy(metric=stopping.metric, mode=stopping.mode)
    return Patience(by=by, measurements=stopping.patience, min_delta=stopping.min_delta)


@dataclass(frozen=True, slots=True)
class PictureSampler:
    """Draws the pictures of sample grids and scores with the networks a training has at hand.

    An autoencoder or text encoder that the training does without is loaded for as long as it takes.
    """

    source: Source
    scheduler: Schedule
    settings: LayoutSettings
    text_dtype: torch.dtype | None = torch.float32  # see read_text
    cast: torch.dtype | None = None  # what autocast computes in, where it is on and weights may be kept so

    @contextmanager
    def __call__(self, module: DiffusionModule) -> Iterator[Draw]:
        # The pipeline declares these as classes of diffusers and transformers, the module as any network.
        unet: Any = module.unet
        trained_text: Any = module.trained.get("text_encoder")
        text = components_of(load_text(self.source, trained_text, dtype=self.text_dtype))
        vae = module.vae or load_vae(self.source)
        parts: list[object] = [vae, *text.values()]
        for network in parts:
            if isinstance(network, nn.Module):
                if self.cast is not None and network not in (trained_text, module.vae):  # only what was loaded here
                    precast(network.requires_grad_(False), self.cast)
                network.to(module.device)
        # Not `pipe.to`: a UNet that is dealt out over processes would be taken apart again.
        pipe = LayoutPipeline(
            vae=vae,
            unet=unet,
            scheduler=sampler_for(self.scheduler.config),
            layout=self.settings.to_dict(),
            **text,
        )
        pipe.set_progress_bar_config(disable=True)
        layout = self.settings.region_attention or self.settings.moe

        def draw(samples: list[Sample], drawing: Drawing, seeds: list[int]) -> list[Image.Image]:
            return sample_batch(pipe, samples, seeds, drawing, layout=layout)

        yield draw
