"""Classifier-free guidance as pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mamoe.conditioning.conditioner import concatenate_conditionings
from mamoe.sampling.encoding import Phase
from mamoe.vocabulary.conditioning import Conditioning

_LARGEST = 3.4e38  # of float32, in which predictions are multiplied by it
_SHORTEST = 1e-12  # length of a patch that is divided by


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """How far a picture is led, by all that is asked for or by text and layout apart.

    Both together are one guidance: with ``layout`` = ``scale`` the pictures are those without ``layout``.
    """

    scale: float  # 0 or more
    layout: float | None  # 0 or more; None: the layout is led with the text
    rescale: float  # in [0, 1]
    distilled: bool = False  # the network has learned to guide itself: it is told how far, and asked once
    patch: int | None = None  # a side in cells, of patches that stay as long as the conditional ones; None: none do

    def problems(self, *, knows_layout: bool) -> list[str]:
        """What is out of range, or not for a model that knows no layout."""
        found = []
        if not 0.0 <= self.scale <= _LARGEST:
            found.append(f"guidance_scale must be 0 or more, got {self.scale}")
        if not 0.0 <= self.rescale <= 1.0:
            found.append(f"guidance_rescale must lie in [0, 1], got {self.rescale}")
        if self.layout is not None and not 0.0 <= self.layout <= _LARGEST:
            found.append(f"guidance_layout must be 0 or more, got {self.layout}")
        if self.layout is not None and not knows_layout:
            found.append("this model knows no layout: leave out guidance_layout")
        if self.rescale and self.patch is not None:
            found.append(
                "guidance_rescale has no effect here: this model's guidance brings every patch back to the length it "
                "has without; leave it out"
            )
        if self.layout is not None and self.distilled:
            found.append(
                "this model was distilled to guide itself, by prompt and layout together: leave out guidance_layout"
            )
        return found

    @property
    def told(self) -> float:
        """What the network is told, if it was distilled; 1 is no guidance."""
        return self.scale if self.distilled and self.scale else 1.0

    @property
    def leads_away(self) -> bool:
        """Whether there is something that negative prompts could lead away from."""
        return not self.distilled and (self.scale != 1.0 or self.layout is not None)

    def steered(self, phase: Phase) -> Conditioning:
        """What the network is asked with in one pass: the parts that are needed, the one that says least first."""
        if self.layout is not None:
            assert phase.text is not None, "encoded without the text alone"
            return concatenate_conditionings([phase.unconditional, phase.text, phase.conditional])
        if self.distilled or self.scale in (0.0, 1.0):
            return phase.conditional if self.scale else phase.unconditional
        return concatenate_conditionings([phase.unconditional, phase.conditional])

    def control(self, shown: Float[Tensor, "B _ _ _"] | None) -> Float[Tensor, "_ _ _ _"] | None:
        """Condition pictures for the same pass: only the conditional pictures are shown theirs."""
        if shown is None or (self.layout is None and self.scale == 1.0):
            return shown
        empty = torch.zeros_like(shown)
        if self.layout is not None:
            return torch.cat([empty, empty, shown])
        return empty if self.scale == 0.0 else torch.cat([empty, shown])

    def combined(self, output: Float[Tensor, "_ C h w"], count: int) -> Float[Tensor, "B C h w"]:
        """One prediction for each of the ``count`` pictures."""
        parts = output.split(count)
        if len(parts) == 1:
            return output
        if len(parts) == 2:
            guided = guide(*parts, scale=self.scale, rescale=self.rescale)
        else:
            guided = guide_apart(*parts, scale=self.scale, layout=self.layout or 0.0)
            guided = rescale_guidance(guided, parts[-1], self.rescale)
        return guided if self.patch is None else keep_length(guided, parts[-1], self.patch)


def guide_apart(
    unconditional: Float[Tensor, "B C h w"],
    text: Float[Tensor, "B C h w"],
    conditional: Float[Tensor, "B C h w"],
    scale: float,
    layout: float,
) -> Float[Tensor, "B C h w"]:
    """``u + scale * (t - u) + layout * (c - t)``: two conditions, one after the other.

    Brooks et al., "InstructPix2Pix: Learning to Follow Image Editing Instructions", 2023, equation 3.

    Args:
        unconditional: prediction u without prompt and layout.
        text: prediction t with the prompt of the whole picture.
        conditional: prediction c with that, the layout and its prompts.
        scale: of the text.
        layout: of what the layout adds.
    """
    return unconditional + scale * (text - unconditional) + layout * (conditional - text)


def guide(
    unconditional: Float[Tensor, "B C h w"], conditional: Float[Tensor, "B C h w"], scale: float, rescale: float
) -> Float[Tensor, "B C h w"]:
    """``u + scale * (c - u)`` (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022), then rescaled.

    Args:
        unconditional: prediction u without prompt and layout.
        conditional: prediction c with them.
        scale: 0 gives u, 1 gives c, more goes beyond c.
        rescale: in [0, 1], see :func:`rescale_guidance`.
    """
    return rescale_guidance(unconditional + scale * (conditional - unconditional), conditional, rescale)


def rescale_guidance(
    guided: Float[Tensor, "B C h w"], conditional: Float[Tensor, "B C h w"], rescale: float
) -> Float[Tensor, "B C h w"]:
    """Bring each picture's standard deviation back towards that of the conditional prediction.

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps Are Flawed", 2023, equations 15 and 16: guidance
    over-exposes pictures under a zero-terminal-SNR schedule. ``rescale`` 0 changes nothing, 1 restores fully.
    """
    if rescale == 0.0:
        return guided
    over_picture = (1, 2, 3)
    ratio = conditional.std(over_picture, keepdim=True) / guided.std(over_picture, keepdim=True)
    return guided * (rescale * ratio + (1.0 - rescale))


def keep_length(
    guided: Float[Tensor, "B C h w"], conditional: Float[Tensor, "B C h w"], patch: int
) -> Float[Tensor, "B C h w"]:
    """Bring the numbers of every ``patch`` x ``patch`` cells, one vector, back to the length of the conditional ones.

    How Qwen-Image is drawn (Wu et al. 2025, arXiv 2508.02324, in the pipeline they published).
    """
    lengths = (one.square().sum(1, keepdim=True) for one in (guided, conditional))
    now, wanted = (F.avg_pool2d(one, patch).sqrt().clamp(min=_SHORTEST) for one in lengths)
    return guided * F.interpolate(wanted / now, scale_factor=patch, mode="nearest")
