"""LoRA files of others, loaded into a pipeline the way diffusers does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

from mamoe.errors import ConfigError
from mamoe.models.backbones import backbone_of
from mamoe.models.control.controlnet_xs import ControlledUNet
from mamoe.models.wrapped import unwrapped

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
            ConfigError: the UNet stands beside a ControlNet-XS branch.
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
        """As their own pipelines do it, but that the network has another name here."""
        backbone = backbone_of(self.unet)
        if backbone.lora_prefix is None:
            raise ConfigError(f"diffusers knows no LoRA files for a {backbone.stock.__name__}.")
        state: Any
        alphas: Any = None
        if (reader := _WITHOUT_SCALES.get(backbone.stock)) is not None:
            state = reader.lora_state_dict(source, **options)
        else:
            state, alphas = FluxLoraLoaderMixin.lora_state_dict(source, return_alphas=True, **options)
        if foreign := sorted(name for name in state if not name.startswith(f"{backbone.lora_prefix}.")):
            raise ConfigError(
                f"This file holds layers of other networks than the transformer, {len(foreign)} in all, first "
                f"{foreign[0]!r}; only those of the transformer can be loaded here."
            )
        network: Any = unwrapped(self.unet)
        network.load_lora_adapter(
            state, network_alphas=alphas or None, adapter_name=adapter_name, prefix=backbone.lora_prefix
        )
