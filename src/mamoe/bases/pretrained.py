"""A pretrained latent diffusion model as its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PixtralProcessor,
    PreTrainedModel,
    Qwen2Tokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from mamoe.bases.parts import Parts, Trained
from mamoe.bases.sources import parts_of
from mamoe.bases.text_fit import text_problems
from mamoe.bases.trained import RunParts
from mamoe.conditioning.encoded import text_config_of, words_of
from mamoe.conditioning.stacked_text import READINGS, LanguageModel
from mamoe.diffusion.schedules import Schedule, is_flow, prediction_of
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import latent_channels, with_channels_last
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import Control, control_of
from mamoe.models.frozen import quantise_text
from mamoe.models.latents import LatentScaling
from mamoe.runs.adapter import same_method
from mamoe.runs.source import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Formats:
    """The number formats that weights are read in."""

    network: torch.dtype = torch.float32
    text: torch.dtype | None = torch.float32  # of the text encoders, see :func:`read_text`


FirstTokenizer = CLIPTokenizer | T5Tokenizer | Qwen2Tokenizer | PixtralProcessor
FirstEncoder = CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel | LanguageModel
LARGE = (T5EncoderModel, *READINGS)  # text encoders that stay as they are, in bfloat16 where nothing else is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class TextParts:
    """What turns prompts into what the network reads.

    One text encoder (CLIP's, T5's or a language model), two of the SDXL kind, CLIP's and T5's of the FLUX.1 kind, or
    two of CLIP's and T5's, which may be left out, of the Stable Diffusion 3 kind.
    """

    tokenizer: FirstTokenizer
    text_encoder: FirstEncoder
    tokenizer_2: CLIPTokenizer | T5Tokenizer | None = None
    text_encoder_2: CLIPTextModelWithProjection | T5EncoderModel | None = None
    tokenizer_3: T5Tokenizer | None = None
    text_encoder_3: T5EncoderModel | None = None
    force_zeros_for_empty_prompt: bool = False  # the empty prompt is all zeros, as the base model was trained

    @property
    def encoders(self) -> tuple[PreTrainedModel, ...]:
        """All that there are, in their order."""
        parts = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        return tuple(one for one in parts if one is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """The parts of a pretrained model; weights in float32, but for :class:`Formats` that were asked for."""

    source: Source
    unet: Any  # a stock UNet, one that knows regions and experts, or one with a ControlNet-XS branch
    vae: AutoencoderKL
    scheduler: Schedule
    text: TextParts
    trained: Trained = field(default_factory=Trained)
    run: RunParts | None = None  # where it is a run's checkpoint
    adapter: Path | None = None  # of a run, to go on with: ``unet`` is what it was trained beside

    @property
    def text_encoder(self) -> FirstEncoder:
        return self.text.text_encoder

    @property
    def tokenizer(self) -> FirstTokenizer:
        return self.text.tokenizer

    @property
    def text_networks(self) -> nn.Module:
        """All text encoders as one module, to be frozen and moved together."""
        encoders = self.text.encoders
        return encoders[0] if len(encoders) == 1 else nn.ModuleList(encoders)


FULL = Formats()


def load_base(
    path: str,
    revision: str | None = None,
    variant: str | None = None,
    *,
    config: str | None = None,
    tokenizer: str | None = None,
    vae: str | None = None,
    base: str | None = None,
    method: Mapping[str, Any] | None = None,
    trains_text: bool = False,
    formats: Formats = FULL,
) -> BaseModel:
    """Load a base model from a folder, the hub, the package itself (``package:tiny``), one original file, or a run.

    Args:
        path, revision, variant, config, tokenizer, vae, base: see :class:`~mamoe.runs.source.Source`.
        method: how it is going to be trained. A run's adapter of exactly this method is to be gone on with; any other
            becomes part of the weights.
        trains_text: whether the text encoder is going to be trained too.
        formats: of the weights.

    Raises:
        ConfigError: a part cannot be loaded, or the parts do not fit each other.
    """
    source = Source(
        path=path, revision=revision, variant=variant, config=config, tokenizer=tokenizer, vae=vae, base=base
    )
    with _explained(path):
        parts = parts_of(source)
        _check_text_kinds(parts.index())  # before anything heavy is loaded
        run, adapter = (parts, parts.adapter) if isinstance(parts, RunParts) else (None, None)
        if run is not None and run.trained_text and not trains_text:
            adapter = None  # the text encoder trained beside it would be left behind with the run
        if run is None or adapter is None or not same_method(run.trained().method, method):
            unet, adapter = parts.unet(formats.network), None
        else:
            unet = run.unet_without_adapter(formats.network)
        autoencoder = load_vae(source)
        text = load_text(source, dtype=formats.text)
        scheduler = parts.scheduler()
    problems = text_problems(unet.config, text.encoders)
    concat = parts.trained().condition is not None and control_of(unet) is Control.LATENT
    reads, made = backbone_of(unet).latent_channels(unet.config), latent_channels(autoencoder.config)
    if reads != made * (2 if concat else 1):
        problems.append(
            f"the UNet reads {reads} channels, the autoencoder's latents have {made} (inpainting and depth models "
            "cannot be a base)"
        )
    if (made_by := type(autoencoder).__name__) != (known := backbone_of(unet).autoencoder):
        problems.append(f"the network knows the latents of an {known}, and vae/ has an {made_by}")
    if backbone_of(unet).flow and not is_flow(scheduler.config):
        problems.append(
            f"the transformer predicts a flow, and scheduler/ has the noise schedule of a model that predicts "
            f"{prediction_of(scheduler.config)}"
        )
    try:
        LatentScaling.of(autoencoder)
    except ConfigError as error:
        problems.append(str(error).rstrip("."))
    if problems:
        raise ConfigError(f"model.path={path}: the parts of the base model do not fit: {'; '.join(problems)}.")
    return BaseModel(
        source=source,
        unet=unet,
        vae=autoencoder,
        scheduler=scheduler,
        text=text,
        trained=parts.trained(),
        run=run,
        adapter=adapter,
    )


def load_vae(source: Source) -> AutoencoderKL:
    """A base model's autoencoder alone, float32, laid out in memory as it is quickest.

    Raises:
        ConfigError: it cannot be loaded.
    """
    with _explained(source.path):
        vae = parts_of(source).network(AutoencoderKL, "vae", torch.float32)
    return with_channels_last(vae)


def load_text(
    source: Source, text_encoder: Any | None = None, *, dtype: torch.dtype | None = torch.float32
) -> TextParts:
    """A base model's text encoders and tokenizers alone, see :func:`read_text`.

    Raises:
        ConfigError: they cannot be loaded.
    """
    with _explained(source.path):
        return read_text(parts_of(source), dtype, text_encoder)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path={path}: the base model cannot be loaded: {reason} Wanted a folder in diffusers layout "
            "(model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/) with safetensors weights, one "
            ".safetensors file in the original layout, or a hub id and a network."
        ) from None


def read_text(parts: Parts, dtype: torch.dtype | None, text_encoder: Any | None = None) -> TextParts:
    """The text encoders and tokenizers.

    Args:
        parts: of the model.
        dtype: of the encoders' weights; None: T5's, which is large and was trained in it, bfloat16, CLIP's float32.
            int8: T5's linear layers in as much, the rest as with None.
        text_encoder: takes the place of the first encoder.

    Raises:
        ConfigError: the model has no first text encoder, or a tokenizer without its vocabulary; int8 is asked for and
            it has no T5, or the package for it is not installed.
        OSError: a file is missing or cannot be read.
    """
    index = parts.index()
    if not _present(index, "text_encoder"):
        raise ConfigError(
            f"This model ({index.get('_class_name')}) has no text encoder of the first kind; refiners and models of "
            "other kinds cannot be a base."
        )
    kinds = {part: _encoder_kind(index, part) for part in _ENCODERS if _present(index, part)}
    first, second, third = (kinds.get(part) for part in _ENCODERS)
    assert first is not None, "it is present"
    numbers = [part.removeprefix("text_encoder") for part in kinds]
    if lost := [f"tokenizer{number}" for number in numbers if not _present(index, f"tokenizer{number}")]:
        raise ConfigError(
            f"model_index.json of this model ({index.get('_class_name')}) names no {' and no '.join(lost)}. Take the "
            "file as it was published."
        )
    named = str(index["tokenizer"][1])
    if (reading := READINGS.get(first)) is not None and not named.startswith(reading.words):
        raise ConfigError(
            f"The text encoder of this model is a {first.__name__}, which reads the words of a {reading.words}… "
            f"tokenizer, and model_index.json names a {named} (tokenizer). Take both as they were published."
        )
    if dtype == torch.int8 and T5EncoderModel not in kinds.values():
        raise ConfigError(
            "model.text_precision=int8 is for T5, which is large, and this model's prompts are read by a "
            f"{first.__name__}. Leave it out."
        )
    text = TextParts(
        tokenizer=parts.tokenizer("tokenizer"),
        text_encoder=text_encoder or _encoder(parts, first, "text_encoder", dtype),
        tokenizer_2=parts.tokenizer("tokenizer_2") if second is not None else None,
        text_encoder_2=_encoder(parts, second, "text_encoder_2", dtype) if second is not None else None,
        tokenizer_3=parts.tokenizer("tokenizer_3") if third is not None else None,
        text_encoder_3=_encoder(parts, third, "text_encoder_3", dtype) if third is not None else None,
        force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", (first, second) == _SDXL)),
    )
    _check_vocabulary("tokenizer", text.tokenizer, text.text_encoder)
    _check_vocabulary("tokenizer_2", text.tokenizer_2, text.text_encoder_2)
    _check_vocabulary("tokenizer_3", text.tokenizer_3, text.text_encoder_3)
    return text


def _check_vocabulary(part: str, tokenizer: FirstTokenizer | None, encoder: PreTrainedModel | None) -> None:
    # Where its files are missing, the library hands out a tokenizer that knows no words.
    if tokenizer is None or encoder is None:
        return
    knows, reads = len(words_of(tokenizer)), text_config_of(encoder).vocab_size
    fits = knows == reads
    if isinstance(encoder, LARGE):  # whose tables are filled up to a round number
        fits = reads - min(512, reads // 2) < knows <= reads
    if not fits:
        raise ConfigError(
            f"The {part} of the base model knows {knows} tokens, its text encoder {reads}: files of {part}/ are "
            "missing or of another model."
        )
    if reading := READINGS.get(type(encoder)):
        reading.check(tokenizer)


def _check_text_kinds(index: Mapping[str, Any]) -> None:
    if _present(index, "processor"):
        raise ConfigError(
            f"A {index.get('_class_name')} is shown pictures beside its prompts (processor), and here prompts are all "
            "there is. Take the base model that draws by text alone, such as Qwen/Qwen-Image."
        )
    for part in _ENCODERS:
        if _present(index, part):
            _encoder_kind(index, part)


_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_SDXL = (CLIPTextModel, CLIPTextModelWithProjection)  # its two


def _encoder_kind(index: Mapping[str, Any], part: str) -> type[PreTrainedModel]:
    name = str(index[part][1])
    whole = {kind.__name__: kind for kind in LARGE}
    if name in whole:
        return whole[name]
    if not name.startswith("CLIPTextModel"):
        raise ConfigError(
            f"This model ({index.get('_class_name')}) reads its prompts by a {name} ({part}), which is not known here: "
            "wanted CLIP's or T5's text encoder, one of FLUX.2's, Qwen3 and Mistral 3, or Qwen-Image's Qwen2.5-VL."
        )
    # A first encoder alone, or beside T5's, is asked for no projection, whatever it has.
    projects = part != "text_encoder" or _both_project(index)
    return CLIPTextModelWithProjection if projects else CLIPTextModel


def _both_project(index: Mapping[str, Any]) -> bool:
    return all(index.get(part, [None, None])[1] == CLIPTextModelWithProjection.__name__ for part in _ENCODERS[:2])


def _encoder(parts: Parts, kind: type[PreTrainedModel], part: str, dtype: torch.dtype | None) -> Any:
    usual = torch.bfloat16 if kind in LARGE else torch.float32
    encoder: Any = parts.network(kind, part, usual if dtype in (None, torch.int8) else dtype)
    if kind is T5EncoderModel and dtype == torch.int8:
        quantise_text(encoder)
    return encoder


def _present(index: Mapping[str, Any], part: str) -> bool:
    return index.get(part, [None])[0] is not None
