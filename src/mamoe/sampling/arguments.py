"""Whether the arguments of a call of the pipeline are of their kinds, and what is said of those it does not take.

What they mean together is looked at by those who use them; here are the slips that would end in a library's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from mamoe.errors import nearest
from mamoe.sampling.encoding import EncodedRequest

_WHOLE = ("num_inference_steps", "height", "width", "num_images_per_prompt", "border")
_REAL = ("guidance_scale", "guidance_rescale", "guidance_layout", "strength")
_MAY_BE_NONE = ("height", "width", "guidance_rescale", "guidance_layout", "strength")
_ENCODED = "give encoded=pipe.encode(...), which holds the text's embeddings and the layout's masks"
_STEPS = "the scheduler chooses its steps: pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, ...)"
_NO_ADAPTER = "this pipeline has no IP-Adapters"
_SIZES = "a base model of the SDXL kind is told of them by framing=Framing(...)"
_CALLBACK = "give callback_on_step_end"
# What diffusers' own pipelines take, and what there is in its place.
_OF_OTHERS = {
    "prompt_embeds": _ENCODED,
    "negative_prompt_embeds": _ENCODED,
    "pooled_prompt_embeds": _ENCODED,
    "negative_pooled_prompt_embeds": _ENCODED,
    "prompt_2": "both text encoders read the one prompt",
    "negative_prompt_2": "both text encoders read the one negative prompt",
    "timesteps": _STEPS,
    "sigmas": _STEPS,
    "true_cfg_scale": "what leads away from the negative prompt is guidance_scale, of every model",
    "max_sequence_length": "prompts are read up to the length that the training knew; what is cut off is quoted",
    "cfg_normalization": "it is not known here",
    "cfg_truncation": "it is not known here",
    "eta": "for fresh noise in every step take another scheduler, such as DDPM or EulerAncestralDiscrete",
    "clip_skip": "the text is read where the training read it",
    "cross_attention_kwargs": "weights of LoRA layers are set by pipe.set_adapters(name, weight)",
    "ip_adapter_image": _NO_ADAPTER,
    "ip_adapter_image_embeds": _NO_ADAPTER,
    "original_size": _SIZES,
    "target_size": _SIZES,
    "crops_coords_top_left": _SIZES,
    "callback": _CALLBACK,
    "callback_steps": _CALLBACK,
    "control_image": "condition pictures are given as condition",
}
_CHANGES_NOTHING = {
    "cfg_normalization": False,
    "cfg_truncation": 1.0,
    "eta": 0.0,
    "callback_steps": 1,
    "crops_coords_top_left": (0, 0),
}


def argument_problems(given: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """What of a call is of another kind than it must be, or only other pipelines of diffusers take.

    Args:
        given: arguments of the call by their names; those that are looked at elsewhere may be among them.
        others: those that the call has no parameter for. None, and what changes nothing elsewhere, is let pass.

    Raises:
        TypeError: there is no such argument, in diffusers' pipelines neither.
    """
    found = []
    for names, kind, what in ((_WHOLE, Integral, "a whole number"), (_REAL, Real, "a number")):
        for name in names:
            value = given.get(name, 0)
            if not (isinstance(value, kind) or (value is None and name in _MAY_BE_NONE)):
                found.append(f"{name} must be {what}, got {value!r:.60}")
    encoded = given.get("encoded")
    if not isinstance(encoded, EncodedRequest | None):
        found.append(f"encoded is what pipe.encode(...) gives, got {encoded!r:.60}")
    for name, value in others.items():
        if name not in _OF_OTHERS:
            near = nearest(name, [*given, *_OF_OTHERS])
            raise TypeError(f"LayoutPipeline takes no argument {name!r}" + (f"; nearest is {near}" if near else ""))
        if value is not None and not _is_silent(name, value):
            found.append(f"{name} is not taken here: {_OF_OTHERS[name]}")
    return found


def _is_silent(name: str, value: Any) -> bool:
    return isinstance(value, int | float | tuple) and name in _CHANGES_NOTHING and value == _CHANGES_NOTHING[name]
