"""LoRA files of others, loaded into a pipeline the way diffusers does it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, cast

from diffusers.loaders.lora_pipeline import (
    Flux2LoraLoaderMixin,
    FluxLoraLoaderMixin,
    QwenImageLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
    ZImageLoraLoaderMixin,
)
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.models.backbones import backbone_of
from mamoe.models.control.controlnet_xs import ControlledUNet
from mamoe.models.wrapped import unwrapped

# A weight of a layer's low-rank half, in the names of peft and, before it, of diffusers.
_HALF = re.compile(r"(?P<layer>.+)\.lora(?:_linear_layer)?[._](?P<half>A|B|down|up)(?:\.\w+)?\.weight")
# Readers of files without scales of layers beside the weights, by the network's class.
_WITHOUT_SCALES: Mapping[type[Any], Any] = {
    Flux2Transformer2DModel: Flux2LoraLoaderMixin,
    QwenImageTransformer2DModel: QwenImageLoraLoaderMixin,
    ZImageTransformer2DModel: ZImageLoraLoaderMixin,
    SD3Transformer2DModel: SD3LoraLoaderMixin,
}


class LoraLoading(StableDiffusionLoraLoaderMixin):
    """``load_lora_weights``, ``set_adapters``, ``fuse_lora`` and the rest, whatever the base model's encoders are.

    A LoRA made for the base model changes the attention of all cells and, of the feed-forwards, that of the rest
    expert, which has the base model's names.
    """

    _lora_loadable_modules = ["unet", "text_encoder", "text_encoder_2"]  # noqa: RUF012
    unet: Any
    text_encoder_2: Any

    def load_lora_weights(self, *args: Any, **options: Any) -> None:
        """Add the layers of a LoRA file, folder, hub name or state dict; arguments as in diffusers.

        Raises:
            ConfigError: the UNet stands beside a ControlNet-XS branch; or, of a transformer, the file has no layers
                that fit it.
        """
        if isinstance(unwrapped(self.unet), ControlledUNet):
            raise ConfigError(
                "This UNet stands beside a ControlNet-XS branch, and diffusers' loader knows no such pair: call "
                "pipe.unet.base.load_lora_adapter(...) for the layers of the UNet."
            )
        if backbone_of(self.unet).part != "unet":
            self._load_into_transformer(*args, **options)
            return
        kind: Any = StableDiffusionLoraLoaderMixin if self.text_encoder_2 is None else StableDiffusionXLLoraLoaderMixin
        kind.load_lora_weights(self, *args, **options)

    def _load_into_transformer(self, source: Any, adapter_name: str | None = None, **options: Any) -> None:
        """As their own pipelines do it, but that the network has another name here.

        Raises:
            ConfigError: the file is none of this family's, or of other sizes.
        """
        backbone = backbone_of(self.unet)
        if backbone.lora_prefix is None:
            raise ConfigError(f"diffusers knows no LoRA files for a {backbone.stock.__name__}.")
        state, alphas = _read(backbone.stock, source, options)
        if foreign := sorted(name for name in state if not name.startswith(f"{backbone.lora_prefix}.")):
            raise ConfigError(
                f"This file holds layers of other networks than the transformer, {len(foreign)} in all, first "
                f"{foreign[0]!r}; only those of the transformer can be loaded here."
            )
        network: Any = unwrapped(self.unet)
        state = _fitting(state, f"{backbone.lora_prefix}.", network)
        network.load_lora_adapter(
            state, network_alphas=alphas or None, adapter_name=adapter_name, prefix=backbone.lora_prefix
        )


def _read(stock: type[Any], source: Any, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """The weights of a LoRA file by diffusers' names, and scales of layers if they are said beside them."""
    reader, of_flux = _WITHOUT_SCALES.get(stock), cast(Any, FluxLoraLoaderMixin)
    try:
        if reader is not None:
            return reader.lora_state_dict(source, **options), None
        return of_flux.lora_state_dict(source, return_alphas=True, **options)
    except (ValueError, KeyError, IndexError) as error:  # of names that the reader does not know
        raise ConfigError(
            f"This is no LoRA file that diffusers can read for a {stock.__name__} ({type(error).__name__}: "
            f"{error!s:.200}). Wanted one that was trained on this base model, in diffusers' names or those of a "
            "trainer that diffusers knows."
        ) from None


def _fitting(state: Mapping[str, Tensor], prefix: str, network: Any) -> dict[str, Tensor]:
    """The weights that have a place in a network; libraries would stop in the middle, or take nothing and say nothing.

    Raises:
        ConfigError: none has one, or layers are of other sizes, or halves of layers are missing.
    """
    layers, kind = dict(network.named_modules()), type(network).__name__
    adapted: dict[str, dict[str, Tensor]] = {}
    for name, weight in state.items():
        if found := _HALF.fullmatch(name.removeprefix(prefix)):
            adapted.setdefault(found["layer"], {})["A" if found["half"] in ("A", "down") else "B"] = weight
    lost = sorted(adapted.keys() - layers.keys())
    if len(lost) == len(adapted):
        has = f"{len(lost)} LoRA layers, first {lost[0]!r}, of which it has none" if lost else "no LoRA layers"
        raise ConfigError(f"This file does not fit a {kind}: it holds {has}. Take one trained on this base model.")
    problems = [
        problem
        for layer in sorted(adapted.keys() & layers.keys())
        for problem in _misfit(adapted[layer], layers[layer])
    ]
    if problems:
        raise ConfigError(
            f"This file does not fit a {kind} of these sizes: {problems[0]}, one of {len(problems)} such faults. Take "
            "one trained on this base model, and the whole file."
        )
    if lost:
        warnings.warn(
            f"{len(lost)} of the {len(adapted)} LoRA layers of this file are left out, because this {kind} has no "
            f"such layers; first {lost[0]!r}.",
            stacklevel=4,
        )
    gone = tuple(f"{prefix}{layer}." for layer in lost)
    return {name: weight for name, weight in state.items() if not name.startswith(gone)}


def _misfit(halves: Mapping[str, Tensor], layer: Any) -> list[str]:
    if missing := sorted({"A", "B"} - halves.keys()):
        return [f"a layer lacks its lora_{missing[0]}"]
    has = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    got = (halves["A"].shape[1], halves["B"].shape[0])
    return [] if None in has or got == has else [f"a layer reads and makes {got} numbers where {has} are wanted"]
