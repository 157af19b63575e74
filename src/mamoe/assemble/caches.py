"""The configured caches: filled before a training starts, or ahead of it by ``mamoe cache``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from mamoe.assemble.base import base_of
from mamoe.assemble.checking import check_data
from mamoe.assemble.data import check_batches, layout_settings, splits
from mamoe.assemble.device import device_of
from mamoe.bases.pretrained import BaseModel, TextParts
from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.encoders import encoder_for
from mamoe.conditioning.text import PromptEncoder
from mamoe.config.train import Train
from mamoe.console import Bar
from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import LatentCache
from mamoe.models.autoencoder import vae_fingerprint
from mamoe.models.backbones import backbone_of
from mamoe.storage.shards import ShardFolder
from mamoe.storage.staging import DiskFullError, is_disk_full
from mamoe.training.step.latents import fill_latents
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.prompts import RegionPrompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What became of one cache."""

    what: str
    made: int  # entries made now
    shards: ShardFolder

    def __str__(self) -> str:
        size = f"{self.shards.nbytes / 2**20:.1f} MiB"
        return f"{self.what}: {self.made} made, {len(self.shards)} there ({size}) in {self.shards.folder}"


def build_caches(config: Train, bar: Bar) -> list[str]:
    """Fill every cache that a training with this configuration would use; returns a line on each.

    Raises:
        DiskFullError: what had been finished by then is kept.
    """
    settings = layout_settings(config)
    trains, validates = splits(config, settings.taxonomy)
    check_data(config, [trains, validates], bar)
    check_batches(config, trains)
    base = base_of(config)
    lines = []
    if config.model.train_text_encoder:
        lines.append("prompts: nothing to keep, the text encoder is trained (model.train_text_encoder=true)")
    else:
        encoder = caching_encoder(config, base)
        assert encoder.cache is not None
        made = fill_prompts(config, encoder, settings, [*trains.prompts, *validates.prompts], bar)
        lines.append(str(Built(what="prompts", made=made, shards=encoder.cache.shards)))
    if config.cache.latents:
        *_, cache, made = encoded(config, base.vae, [trains, trains.unaugmented(), validates], bar)
        lines.append(str(Built(what="latents", made=made, shards=cache.shards)))
    else:
        reason = trains.geometry.unpredictable
        way = f"impossible, {reason}" if reason else "set cache.latents=true here and in the training"
        lines.append(f"latents: not kept (cache.latents=false); {way}")
    return lines


def prompt_encoder(base: BaseModel, cache: EmbeddingCache | None = None) -> PromptEncoder:
    """What encodes prompts as the base model's network reads them."""
    text = base.text
    return encoder_for(
        text.tokenizer,
        text.text_encoder,
        cache,
        tokenizer_2=text.tokenizer_2,
        text_encoder_2=text.text_encoder_2,
        tokenizer_3=text.tokenizer_3,
        text_encoder_3=text.text_encoder_3,
        width=backbone_of(base.unet).text_width(base.unet.config),
        zero_empty=text.force_zeros_for_empty_prompt,
    )


def text_id(text: TextParts) -> str:
    """A name for the base model's text encoders together: what decides an embedding."""
    pairs = (
        (text.text_encoder, text.tokenizer),
        (text.text_encoder_2, text.tokenizer_2),
        (text.text_encoder_3, text.tokenizer_3),
    )
    return "-".join(fingerprint(one, words) for one, words in pairs if one is not None and words is not None)


def caching_encoder(config: Train, base: BaseModel) -> PromptEncoder:
    """The base model's text encoders, where the training is going to be, with their cache."""
    base.text_networks.to(device_of(config))
    return prompt_encoder(base, EmbeddingCache(Path(config.cache.folder) / "text", text_id(base.text)))


def fill_prompts(
    config: Train, encoder: PromptEncoder, settings: LayoutSettings, prompts: Sequence[RegionPrompts], bar: Bar
) -> int:
    """Encode every prompt the data can ask for, so that no step waits for it; returns how many were new."""
    whole = {"", *(p.global_prompt for p in prompts)}
    classes = {c.prompt for c in settings.taxonomy.classes}
    own = {text for p in prompts for text in p.by_segment.values()} | classes | {settings.dataset_prompt or ""}
    made = 0
    with torch.no_grad(), _room_on(config.cache.folder):
        for texts, padded in ((sorted(whole), True), (sorted(own - {""}), settings.encoder_padding)):
            if encoder.missing(texts, padded):
                with bar("Encoding prompts") as report:
                    made += encoder.fill(texts, padded, report)
    return made


def encoded(
    config: Train, vae: AutoencoderKL, sources: Sequence[LayoutDataset], bar: Bar
) -> tuple[list[LayoutDataset], LatentCache, int]:
    """The data sets with latents in place of pictures, every gap of the cache filled; and how many there were."""
    precision = config.trainer.precision
    cache = LatentCache(Path(config.cache.folder) / "latents", vae_fingerprint(vae, precision))
    datasets = [source.encoded(cache) for source in sources]
    made = 0
    if any(dataset.missing() for dataset in datasets):
        device = device_of(config)
        vae.to(device)  # pyright: ignore[reportArgumentType]
        with bar("Encoding pictures") as report, _computing(precision, device), _room_on(config.cache.folder):
            made = fill_latents(cache, datasets, vae, threads=config.data.num_workers or 1, progress=report)
    return datasets, cache, made


@contextmanager
def _computing(precision: str, device: torch.device) -> Iterator[None]:
    """The number formats that a training of this precision computes in."""
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float16
    with torch.autocast(device.type, dtype, enabled=precision.endswith("-mixed")):
        yield


@contextmanager
def _room_on(folder: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            f"The disk of {folder} is full. What was finished is kept: free some space or choose another cache.folder, "
            "then start again."
        ) from error
