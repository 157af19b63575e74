"""From drawn scenes to an untrained base model with a trained autoencoder: the first half of the tiny base's recipe."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTextModel

from mamoe.bases.pretrained import load_base
from mamoe.bases.text_scale import standardise_text
from mamoe.bases.tiny import write_untrained_base
from mamoe.conditioning.encoders import encoder_for
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.listing import listed
from mamoe.data.folder.prompts import read_prompts_csv
from mamoe.data.reading.pictures import read_picture
from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError, DatasetError
from mamoe.storage.staging import staged_folder
from mamoe.training.autoencoder import AutoencoderRecipe, reconstruction_psnr, train_autoencoder
from mamoe.vocabulary.taxonomy import Taxonomy, shipped_taxonomies

TEXTS = 1000  # whose tokens decide mean and scale of the text features


def make_new_base(data: Path, out: Path, *, steps: int | None, report: Callable[[int, int, float], None]) -> float:
    """Train the autoencoder on ``data/images/train`` and write a base model folder; returns the PSNR on ``val`` in dB.

    Args:
        data: a folder made by ``mamoe scenes``.
        out: folder to make; its UNet and text encoder are untrained.
        steps: of the encoder's and of the decoder's training; None = the recipe's.
        report: called with (step, steps, loss) after every step.

    Raises:
        ConfigError: ``out`` exists.
        DiskFullError: nothing is left in ``out``.
        DatasetError: no pictures to train on.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and would be overwritten; name a new folder.")
    recipe = AutoencoderRecipe()
    if steps is not None:
        recipe = replace(recipe, encoder_steps=steps, decoder_steps=steps)
    total = recipe.encoder_steps + recipe.decoder_steps
    done = itertools.count(1)
    if not data.is_dir():
        raise DatasetError(f"There is no folder {data}. Make it: mamoe scenes {data} --domain broad")
    parts = data_folder(data)
    trains, validates = (read_pictures(parts.images / split) for split in ("train", "val"))
    autoencoder = train_autoencoder(trains, recipe, report=lambda step, loss, _: report(next(done), total, loss))
    classes = [c.prompt for name in shipped_taxonomies() for c in Taxonomy.load(name).classes]
    captions = (
        [] if parts.prompts is None else read_prompts_csv(Path(str(parts.prompts).replace("{split}", "train"))).values()
    )
    texts = [*captions, *classes]
    scheduler = make_scheduler("v_prediction", zero_snr=True)
    with staged_folder(out) as stage:
        write_untrained_base(stage, autoencoder=autoencoder, scheduler=scheduler, texts=texts, seed=recipe.seed)
        standardise(stage, texts)
    return reconstruction_psnr(autoencoder, validates)


def standardise(base: Path, texts: Sequence[str]) -> None:
    """Standardise the text features of the base model in a folder over the tokens of ``texts``."""
    model = load_base(str(base))
    assert isinstance(model.text_encoder, CLIPTextModel), "the tiny base is made with one of CLIP's kind"
    with torch.no_grad():
        features = torch.cat(encoder_for(model.tokenizer, model.text_encoder).encode(texts[:TEXTS], padded=False))
    standardise_text(model.text_encoder, model.unet, features)
    model.text_encoder.save_pretrained(base / "text_encoder")
    model.unet.save_pretrained(base / "unet")


def read_pictures(folder: Path) -> np.ndarray:
    """All pictures of a folder, which are of one size: u8 [n H W 3]."""
    names = listed(folder, (".png",)).names if folder.is_dir() else ()
    if not names:
        raise DatasetError(f"There are no PNG pictures in {folder}. Make some: mamoe scenes {folder.parent.parent}")
    return np.stack([read_picture(folder / name) for name in sorted(names)])
