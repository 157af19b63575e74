"""Panoptic maps and prompts to pictures: a diffusers pipeline.

The flow:  Requests -> Conditioning -> Noise -> Denoise -> Decode.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Sequence
from dataclasses import astuple, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, ModelMixin, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from jaxtyping import Float, Int32
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mamoe.bases.shipped import resolved
from mamoe.bases.single_file import is_single_file
from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.conditioner import (
    Conditioner,
    concatenate_conditionings,
    picture_conditioning,
    text_tokens,
)
from mamoe.conditioning.regions import build_layout, layout_without_map
from mamoe.conditioning.text import PromptEncoder
from mamoe.diffusion.sampler import is_zero_snr, sampler_for, scaled_for_model
from mamoe.errors import ConfigError
from mamoe.machine.transfers import sent
from mamoe.models.autoencoder import without_overflow
from mamoe.models.backbones import pyramid_of
from mamoe.models.control.call import Control, control_input, control_of, predict
from mamoe.models.control.controlnet_xs import BRANCH, ControlledUNet, load_branch, side_multiple
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from mamoe.models.experts.moe import prepare_experts
from mamoe.models.latents import LatentScaling
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.models.wrapped import unwrapped
from mamoe.runs.lookup import is_run
from mamoe.sampling.checks import check_call, check_parts, without_run_options
from mamoe.sampling.components import is_foreign_transformer, load_base_components, load_components
from mamoe.sampling.condition import condition_pictures
from mamoe.sampling.effect import WithoutEffect, without_effect
from mamoe.sampling.guidance import guide
from mamoe.sampling.requests import (
    ConditionPicture,
    InstancePrompts,
    Request,
    gather_requests,
    generators_for,
    picture_size,
)
from mamoe.vocabulary.batch import framing_rows
from mamoe.vocabulary.conditioning import Conditioning
from mamoe.vocabulary.drawing import DRAWING
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap

# diffusers looks up a component of another library, and ModelMixin, in the module its folder names: this one.
__all__ = ["LayoutPipeline", "MaMoEPixArtTransformer2DModel", "MaMoEUNet2DConditionModel", "ModelMixin"]

ZERO_SNR_RESCALE = 0.7


class LayoutPipeline(DiffusionPipeline, StableDiffusionMixin):
    """Draws pictures that follow a panoptic map and a prompt per instance.

    Args:
        vae: autoencoder of the latents.
        text_encoder: CLIP-type encoder of the prompts.
        tokenizer: its tokenizer.
        unet: a MaMoE UNet, or a stock one for text alone.
        text_encoder_2: the second encoder of a base model of the SDXL kind.
        tokenizer_2: its tokenizer.
        force_zeros_for_empty_prompt: the empty prompt is all zeros, as the base model was trained.
        scheduler: any diffusers scheduler; :func:`~mamoe.diffusion.sampler.sampler_for` makes the default one.
        layout: ``LayoutSettings.to_dict()`` of the training, or that as JSON text; None for a model without layout.
        condition: what a UNet with a condition picture was shown: ``classes`` or ``edges``, drawn from the map;
            anything else = pictures that have to be given.

    Raises:
        ConfigError: the layout settings and the UNet disagree about the number of experts, or the UNet cannot read
            what the text encoders give.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2"]  # noqa: RUF012

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
        )
        # As text, because diffusers sorts the keys of what it saves, and the order of the groups numbers the experts.
        text = layout if layout is None or isinstance(layout, str) else json.dumps(layout)
        self.register_to_config(
            layout=text, force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, condition=condition
        )
        self.settings = None if text is None else LayoutSettings.from_dict(json.loads(text))
        self.vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        check_parts(self._unet_config, self.settings, [text_encoder, text_encoder_2])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **options: Any) -> Self:
        """Read a saved pipeline, a run or one of its checkpoints, or a base model.

        The last is a folder, a hub name, one original ``.safetensors`` file, or ``package:tiny``, which ships with the
        package. A run takes the options of :func:`mamoe.sampling.components.load_components`, a file those of
        :func:`mamoe.sampling.components.load_base_components`, everything else those of diffusers.
        Weights are float32 unless ``torch_dtype`` says otherwise. A pipeline of another kind samples with DDIM, in a
        flow by Euler's steps, unless a ``scheduler`` is given.

        Raises:
            ConfigError: a folder that is none of these, or an option of a run for something else.
        """
        path = resolved(str(pretrained_model_name_or_path))
        folder = Path(path)
        if is_run(folder):
            return cls(**load_components(folder, **options))
        options = without_run_options(path, options)
        if is_single_file(path) or is_foreign_transformer(path, options.get("revision")):
            return cls(**load_base_components(path, **options))
        options = {"use_safetensors": True, **options}
        pipe = super().from_pretrained(path, **options)
        if not options.keys() & {"torch_dtype", "dtype"}:
            for encoder in (pipe.text_encoder, pipe.text_encoder_2):  # the others are; these keep their file's type
                if encoder is not None:
                    encoder.to(torch.float32)
        saved = cast(dict[str, Any], cls.load_config(path, revision=options.get("revision")))
        if saved["_class_name"] != cls.__name__ and "scheduler" not in options:
            pipe.scheduler = sampler_for(pipe.scheduler.config)
        if (folder / BRANCH).is_dir():
            pipe = pipe._with_unet(ControlledUNet(pipe.unet, load_branch(pipe.unet, folder / BRANCH)))
        elif pipe.config["condition"] is not None and control_of(pipe.unet) is None:
            raise ConfigError(
                f"{path} was saved with a ControlNet-XS branch, and {folder / BRANCH} is not there: without it the "
                "model would not see its condition pictures. Copy or download the whole folder, and name that."
            )
        return pipe

    # diffusers takes the options by place too.
    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | PathLike[str], **options: Any
    ) -> None:
        """Write every component as safetensors, readable by :meth:`from_pretrained`; options as in diffusers."""
        unet = unwrapped(self.unet)
        if isinstance(unet, ControlledUNet):
            unet.branch.save_pretrained(Path(save_directory) / BRANCH)
            unet = unet.base
        if unet is not self.unet:
            self._with_unet(unet).save_pretrained(save_directory, **options)
            return
        if isinstance(unet, MaMoEUNet2DConditionModel | MaMoEPixArtTransformer2DModel):
            self.register_to_config(unet=(__name__, type(unet).__name__))
        super().save_pretrained(save_directory, **options)

    @property
    def device(self) -> torch.device:
        """The UNet's, or that of a network whose weights are not kept elsewhere."""
        networks = [self.unet, *(part for part in self.components.values() if isinstance(part, torch.nn.Module))]
        devices = [unwrapped(network).device for network in networks]
        return next((device for device in devices if device.type != "meta"), devices[0])

    @property
    def side_multiple(self) -> int:
        """What height and width of a picture must be divisible by, in pixels."""
        if control_of(self.unet) is Control.PICTURE:
            return max(self.vae_scale_factor, side_multiple(len(self._unet_config["block_out_channels"])))
        return self.vae_scale_factor * 2 ** pyramid_of(self.unet).skipped

    @property
    def _unet_config(self) -> Any:
        return unwrapped(self.unet).config

    @property
    def _dtype(self) -> torch.dtype:
        return unwrapped(self.unet).dtype

    def _with_unet(self, unet: Any) -> Self:
        own = {key: self.config[key] for key in ("layout", "condition", "force_zeros_for_empty_prompt")}
        return type(self)(**{**self.components, "unet": unet, **own})

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        panoptic: PanopticMap | list[PanopticMap] | None = None,
        instance_prompts: InstancePrompts | list[InstancePrompts] | None = None,
        num_inference_steps: int = DRAWING.steps,
        guidance_scale: float = DRAWING.guidance_scale,
        guidance_rescale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        height: int | None = None,
        width: int | None = None,
        condition: ConditionPicture | Sequence[ConditionPicture] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        framing: Framing | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per map or prompt. A picture does not depend on the others of its call.

        Args:
            prompt: what the whole picture shows; None is the empty prompt.
            panoptic: the layout, [H W] in pixels; None draws by the prompt alone.
            instance_prompts: segment id -> prompt; other segments take the prompt of their class.
            num_inference_steps: steps of the scheduler.
            guidance_scale: 1 follows the prompts without guidance, 0 ignores prompts and layout.
            guidance_rescale: in [0, 1]; None is 0.7 for a zero-terminal-SNR scheduler and else 0.
            generator: one for each picture; one for several pictures seeds one for each.
            height: in pixels, of pictures without a map; by default what the UNet was made for.
            width: likewise.
            condition: picture for a model that takes one, of the size of what is drawn; None = drawn from the map.
            output_type: "pil", "np" (f32[B H W 3] in [0, 1]), "pt" (f32[B 3 H W] in [0, 1]) or "latent".
            return_dict: False returns a tuple.
            framing: what a base model of the SDXL kind is told of the pictures' origin; None: they are whole files.

        Raises:
            MamoeError: the arguments contradict each other, the maps or this model.
        """
        # Requests.
        requests = gather_requests(prompt, panoptic, instance_prompts, condition)
        check_call(
            requests,
            self.settings,
            most_steps=self.scheduler.config["num_train_timesteps"],
            steps=num_inference_steps,
            scale=guidance_scale,
            rescale=guidance_rescale,
            output_type=output_type,
            unknown_framing=framing is not None and self.text_encoder_2 is None,
        )
        prompts, maps = [one.prompts for one in requests], [one.panoptic for one in requests]
        for line in without_effect(self.settings, prompts, maps, shown=control_of(self.unet) is not None):
            warnings.warn(line, WithoutEffect, stacklevel=3)  # the caller's line: torch.no_grad is in between
        size = picture_size(requests[0].panoptic, height, width, self._default_size(), self.side_multiple)
        generators = generators_for(generator, len(requests))
        if guidance_rescale is None:
            guidance_rescale = ZERO_SNR_RESCALE if is_zero_snr(self.scheduler.config) else 0.0

        # Conditioning.
        rows = framing_rows([framing or Framing.whole(size)] * len(requests))
        conditioning = self._condition(requests, size, guidance_scale, rows)
        control = self._control(requests, size, guidance_scale)

        # Noise.
        latents = self._noise(size, generators)

        # Denoise.
        latents = self._denoise(
            latents, conditioning, control, num_inference_steps, guidance_scale, guidance_rescale, generators
        )

        # Decode.
        images: Any = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _condition(
        self, requests: list[Request], size: tuple[int, int], scale: float, framing: Int32[Tensor, "B 6"]
    ) -> Conditioning:
        """The conditional batch, the unconditional one (scale 0), or both end to end, unconditional first."""
        if self.settings is None:
            texts = [request.prompts.global_prompt for request in requests]
            conditional, unconditional = (self._by_text(t, framing) for t in (texts, [""] * len(texts)))
        else:
            conditional, unconditional = self._by_layout(requests, size, self.settings, framing)
        if scale == 1.0:
            return conditional
        if scale == 0.0:
            return unconditional
        return concatenate_conditionings([unconditional, conditional])

    def _control(self, requests: list[Request], size: tuple[int, int], scale: float) -> Tensor | None:
        """The condition pictures as the UNet takes them, for the same pictures as the conditioning's."""
        form = control_of(self.unet)
        taxonomy = None if self.settings is None else self.settings.taxonomy
        pictures = condition_pictures(requests, size, form, self.config["condition"], taxonomy)
        if form is None or pictures is None:
            return None
        control = control_input(form, pictures.to(self._execution_device), self.vae)
        if scale == 1.0:
            return control
        empty = torch.zeros_like(control)
        return empty if scale == 0.0 else torch.cat([empty, control])

    def _prompt_encoder(self) -> PromptEncoder:
        return PromptEncoder(
            self.tokenizer,
            self.text_encoder,
            tokenizer_2=self.tokenizer_2,
            text_encoder_2=self.text_encoder_2,
            zero_empty=self.config["force_zeros_for_empty_prompt"],
            device=self._execution_device,
        )

    def _by_text(self, prompts: list[str], framing: Int32[Tensor, "B 6"]) -> Conditioning:
        whole = self._prompt_encoder().encode_whole(prompts)
        device, dtype = self._execution_device, self._dtype
        tokens = text_tokens([[encoded.tokens] for encoded in whole], device, dtype)
        return Conditioning(text=tokens, levels=(), picture=picture_conditioning(whole, framing, device, dtype))

    def _by_layout(
        self,
        requests: list[Request],
        size: tuple[int, int],
        settings: LayoutSettings,
        framing: Int32[Tensor, "B 6"],
    ) -> tuple[Conditioning, Conditioning]:
        encoder = self._prompt_encoder()
        conditioner = Conditioner(encoder, settings, *astuple(pyramid_of(self.unet)))
        factor = self.vae_scale_factor
        layouts = [
            layout_without_map(size, request.prompts, settings, factor)
            if request.panoptic is None
            else build_layout(request.panoptic, request.prompts, settings, factor)
            for request in requests
        ]
        regions = replace(collate_layouts(layouts, settings.num_experts), framing=framing)
        device, dtype = self._execution_device, self._dtype
        return (
            conditioner(regions, device=device, dtype=dtype),
            conditioner(regions.null_like(), device=device, dtype=dtype),
        )

    def _noise(self, size: tuple[int, int], generators: list[torch.Generator]) -> Float[Tensor, "B C h w"]:
        factor, channels = self.vae_scale_factor, self.vae.config["latent_channels"]
        shape = (channels, size[0] // factor, size[1] // factor)
        noise = [torch.randn(shape, generator=one, device=one.device).cpu() for one in generators]
        return sent(torch.stack(noise), self._execution_device)

    def _denoise(
        self,
        latents: Float[Tensor, "B C h w"],
        conditioning: Conditioning,
        control: Tensor | None,
        steps: int,
        scale: float,
        rescale: float,
        generators: list[torch.Generator],
    ) -> Float[Tensor, "B C h w"]:
        prepare_experts(self.unet)
        # A scheduler computes with single numbers, which it reads on the host; only the UNet wants them on the device.
        self.scheduler.set_timesteps(steps)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)  # which a flow's scheduler does not say
        inputs, guided = conditioning.unet_inputs(), len(conditioning.text.embeds) > len(latents)
        # Samplers that draw noise in every step take it from each picture's own generator too.
        stochastic = "generator" in inspect.signature(self.scheduler.step).parameters
        extra: dict[str, Any] = {"generator": generators} if stochastic else {}
        timesteps = self.scheduler.timesteps
        with self.progress_bar(total=len(timesteps)) as bar:  # pyright: ignore[reportCallIssue]
            for timestep, told in zip(timesteps, sent(timesteps, latents.device), strict=True):
                noisy = torch.cat([latents, latents]) if guided else latents
                noisy = scaled_for_model(self.scheduler, noisy, timestep).to(self._dtype)
                output = predict(self.unet, noisy, told, inputs, control).float()
                if guided:
                    output = guide(*output.chunk(2), scale=scale, rescale=rescale)
                latents = self.scheduler.step(output, timestep, latents, **extra).prev_sample
                bar.update()
        return latents

    def _decode(self, latents: Float[Tensor, "B C h w"], output_type: str) -> Any:
        unscaled = LatentScaling.of(self.vae).unscaled(latents)
        with without_overflow(self.vae, latents.device):
            images = self.vae.decode(unscaled.to(self.vae.dtype)).sample.float()
        return self.image_processor.postprocess(images, output_type=output_type)

    def _default_size(self) -> tuple[int, int]:
        cells = self._unet_config["sample_size"]
        height, width = cells if isinstance(cells, list | tuple) else (cells, cells)
        return height * self.vae_scale_factor, width * self.vae_scale_factor
