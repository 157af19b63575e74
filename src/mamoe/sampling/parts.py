"""The parts of a pipeline: put together, read and written.

A folder written here names the stock UNet in ``model_index.json``, so that a stock pipeline of diffusers reads it
without this package, as the dense model; a pipeline that knows a layout reads the same files as a MaMoE UNet.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mamoe.bases.shipped import resolved
from mamoe.bases.single_file import is_single_file
from mamoe.conditioning.encoders import encoder_for
from mamoe.conditioning.text import PromptEncoder
from mamoe.diffusion.sampler import is_zero_snr, sampler_for
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import cell_pixels, latent_channels
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import Control, control_of
from mamoe.models.control.controlnet_xs import BRANCH, ControlledUNet, load_branch, side_multiple
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.models.wrapped import unwrapped
from mamoe.runs.lookup import is_run
from mamoe.sampling.checks import check_parts, check_plain, options_of_run, with_one_dtype, without_run_options
from mamoe.sampling.components import is_foreign_transformer, load_base_components, load_components
from mamoe.sampling.pixels import PictureProcessor
from mamoe.sampling.whole import require_weights, whole_encoders
from mamoe.vocabulary.layout import LayoutSettings

ZERO_SNR_RESCALE = 0.7  # of guidance, where nothing else is asked for
_OWN = ("layout", "condition", "force_zeros_for_empty_prompt")
_STOCK_UNET = ["diffusers", "UNet2DConditionModel"]


class PipelineParts(DiffusionPipeline):
    """A diffusers pipeline with a layout: its parts fit each other, and it also reads runs and single files.

    Args:
        vae: autoencoder of the latents.
        text_encoder: CLIP-type encoder of the prompts.
        tokenizer: its tokenizer.
        unet: a MaMoE UNet, or a stock one for text alone.
        text_encoder_2: the second encoder of a base model of the SDXL or Stable Diffusion 3 kind, or FLUX.1's T5.
        tokenizer_2: its tokenizer.
        text_encoder_3: T5 of the Stable Diffusion 3 kind, which may do without.
        tokenizer_3: its tokenizer.
        force_zeros_for_empty_prompt: the empty prompt is all zeros, as the base model was trained.
        scheduler: any diffusers scheduler; :func:`~mamoe.diffusion.sampler.sampler_for` makes the default one.
        layout: ``LayoutSettings.to_dict()`` of the training, or that as JSON text; None for a model without layout.
        condition: what a UNet with a condition picture was shown: ``classes`` or ``edges``, drawn from the map;
            anything else = pictures that have to be given.

    Raises:
        ConfigError: the layout settings and the UNet disagree about the number of experts, or the UNet cannot read
            what the text encoders give.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->unet->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
        layout: dict[str, Any] | str | None = None,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: T5Tokenizer | None = None,
        force_zeros_for_empty_prompt: bool = False,
        condition: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        # As text, because diffusers sorts the keys of what it saves, and the order of the groups numbers the experts.
        text = layout if layout is None or isinstance(layout, str) else json.dumps(layout)
        self.register_to_config(
            layout=text, force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, condition=condition
        )
        self.settings = None if text is None else _settings_of(text)
        self.vae_scale_factor = cell_pixels(vae.config)
        self.image_processor = PictureProcessor(vae_scale_factor=self.vae_scale_factor)
        check_parts(self._unet_config, self.settings, self.text_encoders)

    @property
    def text_encoders(self) -> list[torch.nn.Module]:
        """All that there are, in their order."""
        parts = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        return [one for one in parts if one is not None]

    @property
    def device(self) -> torch.device:
        """The UNet's, or that of a network whose weights are not kept elsewhere."""
        networks = [self.unet, *(part for part in self.components.values() if isinstance(part, torch.nn.Module))]
        # One after another, because each is asked of all its modules.
        devices = (unwrapped(network).device for network in networks)
        return next((device for device in devices if device.type != "meta"), torch.device("meta"))

    @property
    def side_multiple(self) -> int:
        """What height and width of what is drawn must be divisible by, in pixels; other pictures are cut out of it."""
        if control_of(self.unet) is Control.PICTURE:
            return max(self.vae_scale_factor, side_multiple(len(self._unet_config["block_out_channels"])))
        return self.vae_scale_factor * 2 ** pyramid_of(self.unet).skipped

    @property
    def _unet_config(self) -> Any:
        return unwrapped(self.unet).config

    @property
    def _dtype(self) -> torch.dtype:
        return unwrapped(self.unet).dtype

    def _prompt_encoder(self, device: torch.device) -> PromptEncoder:
        return encoder_for(
            self.tokenizer,
            self.text_encoder,
            tokenizer_2=self.tokenizer_2,
            text_encoder_2=self.text_encoder_2,
            tokenizer_3=self.tokenizer_3,
            text_encoder_3=self.text_encoder_3,
            width=backbone_of(self.unet).text_width(self._unet_config),
            zero_empty=self.config["force_zeros_for_empty_prompt"],
            device=device,
        )

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        factor = self.vae_scale_factor
        return latent_channels(self.vae.config), size[0] // factor, size[1] // factor

    def _rescale(self) -> float:
        return ZERO_SNR_RESCALE if is_zero_snr(self.scheduler.config) else 0.0

    def _default_size(self) -> tuple[int, int]:
        cells = self._unet_config.get("sample_size", 128)  # which is what pipelines of those take that do not say
        height, width = cells if isinstance(cells, list | tuple) else (cells, cells)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    # Names that diffusers' pipelines have had, and that many scripts call.

    def enable_vae_slicing(self) -> None:
        """Let the autoencoder decode pictures one by one."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Let it decode them together again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Let the autoencoder work on large pictures in tiles, which may show a little where they meet."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Let it work on whole pictures again."""
        self.vae.disable_tiling()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **options: Any) -> Self:
        """Read a saved pipeline, a run or one of its checkpoints, or a base model.

        The last is a folder, a hub name, one original ``.safetensors`` file, or ``package:tiny``, which ships with the
        package. A run takes the options of :func:`mamoe.sampling.components.load_components`, a file those of
        :func:`mamoe.sampling.components.load_base_components`, everything else those of diffusers.
        Weights are float32 unless ``torch_dtype``, or ``dtype`` as diffusers calls it by now, says otherwise. A
        pipeline of another kind samples with DDIM, in a flow by Euler's steps, unless a ``scheduler`` is given.

        Raises:
            ConfigError: a folder that is none of these, or an option of a run for something else.
        """
        path = resolved(str(pretrained_model_name_or_path))
        folder = Path(path)
        spelled = "dtype" if options.get("dtype") is not None else "torch_dtype"
        options = with_one_dtype(options)
        if is_run(folder):
            return cls(**load_components(folder, **options_of_run(path, options)))
        options = without_run_options(path, options)
        if is_single_file(path) or is_foreign_transformer(path, options.get("revision")):
            return cls(**load_base_components(path, **options))
        saved = cast(dict[str, Any], cls.load_config(path, revision=options.get("revision")))
        options = {"use_safetensors": True, **options}
        theirs = {spelled if name == "torch_dtype" else name: value for name, value in options.items()}
        with warnings.catch_warnings():  # said to us: earlier versions know this name alone
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            pipe = super().from_pretrained(path, **{**theirs, **whole_encoders(folder, saved, options)})
        require_weights(path, {"unet": pipe.unet, "vae": pipe.vae}, options)
        if "torch_dtype" not in options:
            for encoder in pipe.text_encoders:  # the others are; these keep their file's type
                encoder.to(torch.float32)
        if saved["_class_name"] != cls.__name__ and "scheduler" not in options:
            pipe.scheduler = sampler_for(pipe.scheduler.config)
        if (folder / BRANCH).is_dir():
            pipe = pipe.with_unet(ControlledUNet(pipe.unet, load_branch(pipe.unet, folder / BRANCH)))
        elif pipe.config["condition"] is not None and control_of(pipe.unet) is None:
            raise ConfigError(
                f"{path} was saved with a ControlNet-XS branch, and {folder / BRANCH} is not there: without it the "
                "model would not see its condition pictures. Copy or download the whole folder, and name that."
            )
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **options: Any) -> Self:
        """A pipeline of the same networks as another one, which may be stock; options as in diffusers.

        Raises:
            ConfigError: its network is one that layouts cannot steer.
        """
        # diffusers asks for the very class that the constructor names, and ours have kin.
        networks = {name: part for name, part in pipeline.components.items() if isinstance(part, ModelMixin)}
        if "transformer" in networks:  # which has the same place here, whatever its family is
            networks["unet"] = networks.pop("transformer")
            backbone_of(networks["unet"])
        takes = inspect.signature(cls.__init__).parameters.keys()
        own = {name: networks[name] for name in networks.keys() & takes}
        return cast(Self, super().from_pipe(pipeline, **own, **options))

    # diffusers takes the options by place too.
    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | PathLike[str], **options: Any
    ) -> None:
        """Write every component as safetensors, readable by :meth:`from_pretrained`; options as in diffusers.

        Raises:
            ConfigError: LoRA layers of others stand around the weights, which nothing could read back.
        """
        unet = unwrapped(self.unet)
        check_plain({name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)})
        if isinstance(unet, ControlledUNet):
            unet.branch.save_pretrained(Path(save_directory) / BRANCH)
            unet = unet.base
        if unet is not self.unet:
            self.with_unet(unet).save_pretrained(str(save_directory), **options)
            return
        backbone = backbone_of(unet)
        if backbone.part != "unet" and isinstance(unet, backbone.ours):
            self.register_to_config(unet=(type(self).__module__, type(unet).__name__))
        if isinstance(unet, MaMoEUNet2DConditionModel):
            # Without a layout nothing would tell on reading that this is more than the stock UNet.
            own = [type(self).__module__, MaMoEUNet2DConditionModel.__name__]
            self.register_to_config(unet=tuple(own if self.config["layout"] is None else _STOCK_UNET))
        super().save_pretrained(str(save_directory), **options)  # which makes a name for the hub of the text

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Any:
        """diffusers' way from ``model_index.json`` to components, with the UNet that goes with a layout."""
        if config_dict.get("layout") is not None and list(config_dict.get("unet", ())) == _STOCK_UNET:
            config_dict = {**config_dict, "unet": [cls.__module__, MaMoEUNet2DConditionModel.__name__]}
        return super().extract_init_dict(config_dict, **options)

    def with_unet(self, unet: Any) -> Self:
        """The same pipeline with another UNet."""
        return type(self)(**{**self.components, "unet": unet, **{key: self.config[key] for key in _OWN}})


def _settings_of(text: str) -> LayoutSettings:
    """The layout settings that ``model_index.json`` keeps as text.

    Raises:
        ConfigError: they are none.
    """
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"layout in model_index.json is no JSON of layout settings: {error}. Export the model again."
        ) from None
    if not isinstance(plain, dict):
        raise ConfigError(f"layout in model_index.json must be an object of layout settings, got {text:.60}.")
    try:
        return LayoutSettings.from_dict(plain)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"layout in model_index.json is not what settings are made of ({type(error).__name__}: {error}). "
            "Export the model again."
        ) from None
