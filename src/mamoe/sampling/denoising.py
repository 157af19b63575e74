"""From noise to latents: the scheduler's steps, with guidance, and with what a user's callback makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.sampler import is_zero_snr, set_steps
from mamoe.diffusion.schedules import is_flow
from mamoe.errors import MamoeError
from mamoe.machine.transfers import sent
from mamoe.sampling.editing import Edit
from mamoe.sampling.requests import refuse

Callback = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any]]
TENSORS = ("latents", "prompt_embeds")  # what a callback may be shown, and change


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEnd:
    """What a user wants called after every step, with diffusers' arguments."""

    call: Callback
    tensors: Sequence[str]  # of TENSORS

    def __call__(
        self, pipe: Any, step: int, timestep: Tensor, latents: Float[Tensor, "B C h w"], inputs: dict[str, Any]
    ) -> Float[Tensor, "B C h w"]:
        """The latents as the callback gave them back; prompt embeddings it changed are put into ``inputs``.

        Raises:
            MamoeError: it gave back something else, or tensors of another shape.
        """
        shown = {"latents": latents, "prompt_embeds": inputs["encoder_hidden_states"]}
        given = self.call(pipe, step, timestep, {name: shown[name] for name in self.tensors})
        if not isinstance(given, Mapping | None):
            raise MamoeError(
                f"callback_on_step_end gives back a dictionary of the tensors it got, or None; got {given!r:.60}"
            )
        given = given or {}
        after = {name: given.get(name, tensor) for name, tensor in shown.items()}
        for name, tensor in shown.items():
            if after[name].shape != tensor.shape:
                raise MamoeError(
                    f"callback_on_step_end gave back {name} of shape {tuple(after[name].shape)}, wanted "
                    f"{tuple(tensor.shape)}: the layout's masks are made for these. A callback cannot end guidance."
                )
        inputs["encoder_hidden_states"] = after["prompt_embeds"]
        return after["latents"]


def step_end_of(call: Callback | None, tensors: Sequence[str]) -> StepEnd | None:
    """A user's callback; None where there is none.

    Raises:
        MamoeError: it wants tensors that there are not.
    """
    if call is None:
        return None
    wanted = list(getattr(call, "tensor_inputs", tensors))  # a callback of diffusers' own says it itself
    if strange := [name for name in wanted if name not in TENSORS]:
        raise MamoeError(
            f"callback_on_step_end_tensor_inputs may name {' and '.join(TENSORS)}; there is no {', '.join(strange)}."
        )
    return StepEnd(call=call, tensors=wanted)


def steps_of(scheduler: Any, steps: int, edit: Edit | None, **how: Any) -> Tensor:
    """The timesteps to walk, on the host; an edit leaves out those its strength does not ask for.

    ``how``: see :func:`~mamoe.diffusion.sampler.set_steps`.

    Raises:
        MamoeError: no step is left.
    """
    # A scheduler computes with single numbers, which it reads on the host; only the UNet wants them on the device.
    set_steps(scheduler, steps, **how)
    if edit is None:
        return scheduler.timesteps
    first = edit.first_step(steps)
    if first >= steps:
        raise MamoeError(
            f"strength {edit.strength} of {steps} steps is less than one step: nothing would change. Give more steps, "
            "or more strength."
        )
    skipped = first * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.timesteps[skipped:]


def noise_of(
    generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "B C h w"]:
    """Noise of a ``shape`` (B, C, h, w), every picture's from its own generator."""
    noise = [torch.randn(shape[1:], generator=one, device=one.device).cpu() for one in generators]
    return sent(torch.stack(noise), device)


def given_noise(latents: Tensor, shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "B C h w"]:
    """A user's own noise.

    Raises:
        MamoeError: it is of another shape, or not finite.
    """
    found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
    if found != shape:
        refuse([f"latents must be a tensor of the shape {shape} (pictures, channels, h, w), got {found}"])
    if not latents.isfinite().all():
        refuse(["latents must be finite: they hold NaN or infinity"])
    return sent(latents.float(), device)


def started(
    scheduler: Any, noise: Float[Tensor, "B C h w"], timesteps: Tensor, edit: Edit | None
) -> Float[Tensor, "B C h w"]:
    """The latents of the first step: noise, or the pictures of an edit with noise added."""
    if edit is None or edit.strength == 1.0:
        return noise * getattr(scheduler, "init_noise_sigma", 1.0)  # which a flow's scheduler does not say
    return _noised(scheduler, edit.latents, noise, timesteps[:1])


def with_kept(
    scheduler: Any,
    latents: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    following: Tensor,
    edit: Edit | None,
) -> Float[Tensor, "B C h w"]:
    """The latents after a step, with the cells that an edit keeps at the noise level of the ``following`` timesteps."""
    if edit is None or edit.weight is None:
        return latents
    was = edit.latents if len(following) == 0 else _noised(scheduler, edit.latents, noise, following[:1])
    return edit.kept(latents, was)


def _noised(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(clean, noise, timesteps)
    return scheduler.scale_noise(clean, timesteps, noise)  # as a flow's schedulers name it


def generators_taken(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Arguments for a scheduler's step: samplers that draw noise take it from each picture's own generator too."""
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if stochastic else {}


def steering_at(phases: Sequence[tuple[float, dict[str, Any]]], done: float) -> dict[str, Any]:
    """The inputs of the UNet in force when the share ``done`` of the steps is done; ``phases`` by their start."""
    return next(inputs for start, inputs in reversed(phases) if start <= done)


def schedule_problem(scheduler: Any) -> str | None:
    """Why the scheduler cannot walk the schedule its own configuration asks for; None where it can."""
    name, takes = type(scheduler).__name__, inspect.signature(type(scheduler)).parameters
    if is_flow(scheduler.config) and ("shift" in takes or "use_flow_sigmas" in takes):
        return None
    if "beta_schedule" not in takes:
        return f"{name} does not walk the noise schedule of Stable Diffusion: it is made for other models"
    if is_zero_snr(scheduler.config) and "rescale_betas_zero_snr" not in takes:
        return (
            f"the model was trained with a zero-terminal-SNR schedule, which {name} does not know: "
            "DDIM, DDPM, Euler, EulerAncestral, DPMSolverMultistep and UniPC do"
        )
    return None
