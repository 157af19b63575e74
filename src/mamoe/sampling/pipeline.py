"""Panoptic maps and prompts to pictures: a diffusers pipeline.

The flow:  Requests -> Encoded -> Noise -> Denoise -> Decode.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput, ModelMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.sampler import scaled_for_model
from mamoe.machine.transfers import sent
from mamoe.models.autoencoder import decoded, without_overflow
from mamoe.models.backbones import BACKBONES, backbone_of, is_sized, pyramid_of
from mamoe.models.control.call import control_input, control_of, predict
from mamoe.models.experts.moe import prepare_experts
from mamoe.models.latents import LatentScaling
from mamoe.sampling.adapters import LoraLoading
from mamoe.sampling.arguments import argument_problems
from mamoe.sampling.binding import Share
from mamoe.sampling.checks import call_problems, check_branch, request_problems, size_problems
from mamoe.sampling.condition import condition_pictures
from mamoe.sampling.denoising import (
    TENSORS,
    Callback,
    StepEnd,
    generators_taken,
    given_noise,
    noise_of,
    schedule_problem,
    started,
    steering_at,
    step_end_of,
    steps_of,
    with_kept,
)
from mamoe.sampling.editing import BORDER, Edit, EditAsked, Instances, Mask, Picture, made_edit, source_pictures
from mamoe.sampling.effect import WithoutEffect, call_without_effect
from mamoe.sampling.encoding import EncodedRequest, RequestEncoder
from mamoe.sampling.finite import finite
from mamoe.sampling.guidance import Guidance
from mamoe.sampling.padding import Padded, padded_request, padded_size, padding_said
from mamoe.sampling.parts import PipelineParts
from mamoe.sampling.requests import (
    GATHERED,
    ConditionPicture,
    InstancePrompts,
    Request,
    gather_requests,
    generators_for,
    picture_size,
    refuse,
)
from mamoe.vocabulary.drawing import DRAWING
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.panoptic import PanopticMap

__all__ = ["LayoutPipeline", "ModelMixin"]
# diffusers looks up a component of another library, and ModelMixin, in the module its folder names: this one.
globals().update({backbone.ours.__name__: backbone.ours for backbone in BACKBONES})


class LayoutPipeline(PipelineParts, LoraLoading, StableDiffusionMixin):
    """Draws pictures that follow a panoptic map and a prompt per instance.

    Args: those of :class:`~mamoe.sampling.parts.PipelineParts`.
    """

    # What callbacks ask for and look at.

    _callback_tensor_inputs = list(TENSORS)  # noqa: RUF012
    _guidance_scale, _num_timesteps, _interrupt = DRAWING.guidance_scale, 0, False

    @property
    def guidance_scale(self) -> float:
        """That of the call in progress, or of the last one."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """How many steps it has."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback set ``_interrupt``: what steps are left are not taken."""
        return self._interrupt

    @torch.no_grad()
    def encode(
        self,
        prompt: str | list[str] | None = None,
        panoptic: PanopticMap | list[PanopticMap] | None = None,
        instance_prompts: InstancePrompts | list[InstancePrompts] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        framing: Framing | None = None,
        **further: Any,
    ) -> EncodedRequest:
        """What :meth:`__call__` takes as ``encoded``: text, masks and routings, made once for any number of drawings.

        Args: those of :meth:`__call__` that say what is drawn; ``further`` are ``condition``, ``negative_prompt``,
        ``negative_instance_prompts``, ``regions_from`` and ``regions_until``.

        Raises:
            MamoeError: the arguments contradict each other, the maps or this model.
            TypeError: there is no such argument.
        """
        sizes = {"height": height, "width": width, "num_images_per_prompt": num_images_per_prompt}
        refuse(argument_problems(sizes, {name: further[name] for name in further.keys() - GATHERED}))
        requests = gather_requests(prompt, panoptic, instance_prompts, **further)
        size = picture_size(requests[0].panoptic, height, width, self._default_size())
        return self._encode(requests, size, num_images_per_prompt, framing, self._execution_device, apart=True)

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
        *,
        negative_prompt: str | list[str] | None = None,
        negative_instance_prompts: InstancePrompts | list[InstancePrompts] | None = None,
        num_images_per_prompt: int = 1,
        encoded: EncodedRequest | None = None,
        latents: Float[Tensor, "B C h w"] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        strength: float | None = None,
        mask_image: Mask | Sequence[Mask] | None = None,
        only_instances: Instances | None = None,
        border: int = BORDER,
        guidance_layout: float | None = None,
        regions_from: Share | list[Share] = 0.0,
        regions_until: Share | list[Share] = 1.0,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **others: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per map or prompt. A picture does not depend on the others of its call.

        Args:
            prompt: what the whole picture shows; None is the empty prompt.
            panoptic: the layout, [H W] in pixels; None draws by the prompt alone.
            instance_prompts: segment id -> prompt; other segments take the prompt of their class.
            num_inference_steps: steps of the scheduler.
            guidance_scale: 1 follows the prompts without guidance, 0 ignores prompts and layout. A model that was
                distilled to guide itself (FLUX.1-dev) is told it, as by its own pipeline.
            guidance_rescale: in [0, 1]; None is 0.7 for a zero-terminal-SNR scheduler and else 0.
            generator: one for each picture; one for several pictures seeds one for each.
            height: in pixels, of pictures without a map; by default that of ``image``, or what the UNet was made for.
            width: likewise.
            condition: picture for a model that takes one, of the size of what is drawn; None = drawn from the map.
            output_type: "pil", "np" (f32[B H W 3] in [0, 1]), "pt" (f32[B 3 H W] in [0, 1]) or "latent".
            return_dict: False returns a tuple.
            framing: what a base model of the SDXL or PixArt-alpha kind is told of the pictures' origin; None: they are
                whole files.
            negative_prompt: what guidance leads away from, everywhere; None is the empty prompt.
            negative_instance_prompts: segment id -> what guidance leads away from there.
            num_images_per_prompt: pictures of each prompt and map, those of one after those of another.
            encoded: from :meth:`encode`, in place of all that it takes.
            latents: the noise to begin with, of standard deviation 1; None draws it from the generators.
            image: pictures to begin with, of the size of what is drawn.
            strength: in (0, 1], how much noise ``image`` gets; None is 0.8, or 1 where a part of it is drawn anew.
            mask_image: what of ``image`` is drawn anew, white or true; all else keeps its pixels.
            only_instances: segments that are drawn anew; all else of ``image`` keeps its pixels.
            border: in pixels, how far around mask or instances new and old fade into each other.
            guidance_layout: guidance on the layout, ``guidance_scale`` then being that on the prompt of the whole
                picture; None leads both together, at two thirds of the cost.
            regions_from: share of the steps, in [0, 1], from which prompts of segments bind; or segment id -> share.
            regions_until: likewise, until which they bind.
            callback_on_step_end: called with (pipe, step, timestep, tensors) after every step; what it gives back
                replaces what it got.
            callback_on_step_end_tensor_inputs: what it gets: latents, prompt_embeds.
            others: what other pipelines of diffusers take; refused, with what there is in its place.

        Raises:
            MamoeError: the arguments contradict each other, the maps or this model.
            TypeError: there is no such argument.
        """
        refuse(argument_problems(locals(), others))
        # Requests.
        what = {
            "prompt": prompt,
            "panoptic": panoptic,
            "instance_prompts": instance_prompts,
            "condition": condition,
            "negative_prompt": negative_prompt,
            "negative_instance_prompts": negative_instance_prompts,
            "regions_from": regions_from,
            "regions_until": regions_until,
        }
        asked = EditAsked(
            image=None if image is None else source_pictures(image),
            strength=strength,
            mask_image=mask_image,
            instances=only_instances,
            border=border,
        )
        backbone = backbone_of(self.unet)
        guidance = Guidance(
            scale=guidance_scale,
            layout=guidance_layout,
            rescale=self._rescale() if guidance_rescale is None else guidance_rescale,
            distilled=backbone.distilled(self._unet_config),
            patch=2 ** pyramid_of(self.unet).skipped if backbone.keeps_length else None,
        )
        further = {
            "height": height,
            "width": width,
            "framing": framing,
            "num_images_per_prompt": num_images_per_prompt,
        }
        device = self._execution_device  # asked of all modules of all networks, so once
        step_end = step_end_of(callback_on_step_end, callback_on_step_end_tensor_inputs)
        refuse(
            [
                *call_problems(self.scheduler, num_inference_steps, output_type, flow=backbone.flow),
                *guidance.problems(knows_layout=self.settings is not None),
                *asked.problems(),
                *([] if encoded is None else encoded.problems({**what, **further}, device, self._dtype)),
            ]
        )

        # Encoded.
        if encoded is None:
            requests = gather_requests(**what)
            size = picture_size(requests[0].panoptic, height, width, asked.size or self._default_size())
            apart = guidance_layout is not None
            encoded = self._encode(requests, size, num_images_per_prompt, framing, device, apart=apart)
        for line in self._said(encoded, guidance):
            warnings.warn(line, stacklevel=3)  # the caller's line: torch.no_grad is in between

        # Noise.
        generators = generators_for(generator, len(encoded.requests))
        shape = (len(encoded.requests), *self._latent_shape(encoded.size))
        noise = noise_of(generators, shape, device) if latents is None else given_noise(latents, shape, device)
        edit = made_edit(asked, encoded, self.vae, device)

        # Denoise.
        drawn = self._denoise(noise, encoded, guidance, num_inference_steps, generators, edit, step_end)

        # Decode.
        images: Any = drawn if output_type == "latent" else self._decode(drawn, output_type, encoded.asked, edit)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _encode(
        self,
        requests: list[Request],
        size: tuple[int, int],
        copies: int,
        framing: Framing | None,
        device: torch.device,
        *,
        apart: bool,
    ) -> EncodedRequest:
        refuse(request_problems(requests, self.settings, copies, framing, framed=is_sized(self.unet)))
        check_branch(self.config["condition"], self.unet)
        drawn = padded_size(size, self.side_multiple)
        refuse(size_problems(drawn, self.unet, self.vae_scale_factor))
        each = [padded_request(request, drawn) for request in requests for _ in range(copies)]
        encoder = RequestEncoder(
            encoder=self._prompt_encoder(device),
            settings=self.settings,
            pyramid=pyramid_of(self.unet),
            sized=is_sized(self.unet),
            factor=self.vae_scale_factor,
            device=device,
            dtype=self._dtype,
        )
        return EncodedRequest(
            requests=tuple(each),
            copies=copies,
            asked=size,
            size=drawn,
            phases=encoder(each, drawn, framing, apart=apart and self.settings is not None),
            control=self._control(requests, size, drawn, copies, device),
        )

    def _control(
        self,
        requests: list[Request],
        size: tuple[int, int],
        drawn: tuple[int, int],
        copies: int,
        device: torch.device,
    ) -> Tensor | None:
        """The condition pictures as the UNet takes them, those of ``size`` continued to the size ``drawn``."""
        form = control_of(self.unet)
        taxonomy = None if self.settings is None else self.settings.taxonomy
        pictures = condition_pictures(requests, size, form, self.config["condition"], taxonomy)
        if form is None or pictures is None:
            return None
        whole = F.pad(pictures.float(), (0, drawn[1] - size[1], 0, drawn[0] - size[0]), mode="replicate").byte()
        control = control_input(form, whole.to(device), self.vae)
        return control.repeat_interleave(copies, dim=0)

    def _said(self, encoded: EncodedRequest, guidance: Guidance) -> list[Warning]:
        """What the user is told: what of a call changes nothing, and what is drawn otherwise than asked for."""
        ignored = call_without_effect(
            self.settings,
            encoded.requests,
            shown=control_of(self.unet) is not None,
            guided=guidance.leads_away,
            apart=guidance.layout is not None,
        )
        padded = padding_said(encoded.asked, encoded.size, self.side_multiple)
        problem = schedule_problem(self.scheduler)
        return [
            *map(WithoutEffect, ignored),
            *map(Padded, padded),
            *([] if problem is None else [UserWarning(problem)]),
        ]

    def _denoise(
        self,
        noise: Float[Tensor, "B C h w"],
        encoded: EncodedRequest,
        guidance: Guidance,
        steps: int,
        generators: list[torch.Generator],
        edit: Edit | None,
        step_end: StepEnd | None,
    ) -> Float[Tensor, "B C h w"]:
        prepare_experts(self.unet)
        backbone, patches = backbone_of(self.unet), noise[0, 0].numel() // 4 ** pyramid_of(self.unet).skipped
        how = {"patches": patches, "even": backbone.even_steps, "shift": backbone.drawn_shift}
        timesteps = steps_of(self.scheduler, steps, edit, **how)
        latents, count = started(self.scheduler, noise, timesteps, edit), len(noise)
        control = guidance.control(encoded.control)
        phases = [(phase.start, guidance.steered(phase).unet_inputs()) for phase in encoded.phases]
        # The network's, as everything was encoded: it is asked of all modules, which takes as long as a block does.
        dtype = encoded.phases[0].conditional.text.embeds.dtype
        taken = generators_taken(self.scheduler, generators)
        phase, inputs = None, {}
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance.scale, len(timesteps), False
        with self.progress_bar(total=len(timesteps)) as bar:  # pyright: ignore[reportCallIssue]
            for step, (timestep, told) in enumerate(zip(timesteps, sent(timesteps, latents.device), strict=True)):
                if self._interrupt:
                    break
                if (steering := steering_at(phases, step / len(timesteps))) is not phase:
                    phase = inputs = steering
                    if step_end is None:  # which may change text and weights between steps
                        inputs = backbone.for_steps(self.unet, steering, dtype)  # what the last phase had is let go
                noisy = latents.repeat(len(inputs["encoder_hidden_states"]) // count, 1, 1, 1)
                noisy = scaled_for_model(self.scheduler, noisy, timestep).to(dtype)
                output = guidance.combined(
                    predict(self.unet, noisy, told, inputs, control, guidance.told).float(), count
                )
                latents = self.scheduler.step(output, timestep, latents, **taken).prev_sample
                latents = with_kept(self.scheduler, latents, noise, timesteps[step + 1 :], edit)
                if step_end is not None:
                    latents = step_end(self, step, timestep, latents, inputs)
                bar.update()
        return latents

    def _decode(
        self, latents: Float[Tensor, "B C h w"], output_type: str, asked: tuple[int, int], edit: Edit | None
    ) -> Any:
        unscaled = LatentScaling.of(self.vae).unscaled(latents)
        with without_overflow(self.vae, latents.device):
            images = finite(decoded(self.vae, unscaled.to(self.vae.dtype)).float())
        if edit is not None:
            images = edit.pasted(images)
        return self.image_processor.postprocess(images[..., : asked[0], : asked[1]], output_type=output_type)


# Where this module is imported, DiffusionPipeline.from_pretrained knows the class that a folder names.
setattr(diffusers, LayoutPipeline.__name__, LayoutPipeline)
