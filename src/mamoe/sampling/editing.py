"""Pictures changed rather than made: from a noised picture, and all of it or a part.

    picture -> latents -> noise of ``strength`` -> denoised -> the kept cells put back in every step -> kept pixels put back

Blended latents: Avrahami et al., "Blended Latent Diffusion", 2023. A decoded pixel depends on all latents a little, so at
the end the pixels to keep are taken from the picture itself: they stay as they are, and do not pass the autoencoder.
"""  # noqa: E501 - the flow is one line

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, UInt8
from PIL.Image import Image
from torch import Tensor

from mamoe.data.reading.pictures import as_rgb
from mamoe.machine.transfers import sent
from mamoe.models.autoencoder import posterior_of, without_overflow
from mamoe.models.latents import LatentScaling
from mamoe.sampling.encoding import EncodedRequest
from mamoe.sampling.padding import continued
from mamoe.sampling.requests import Request, refuse

BORDER = 8  # pixels: one latent cell
STRENGTH = 0.8  # of a picture that may change everywhere
Picture = Image | np.ndarray | Tensor  # an array is u8[H W 3]; arrays and tensors in [0, 1] as the pipeline gives them
Mask = Image | np.ndarray | Tensor  # [H W]; true, or at least half of white, is drawn anew
Instances = int | Collection[int] | Sequence[Collection[int]]  # segment ids, of every picture or of each


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Edit:
    """What is kept of the pictures that are changed."""

    pixels: Float[Tensor, "B 3 H W"]  # in [-1, 1]
    latents: Float[Tensor, "B C h w"]  # of these, as the UNet knows latents
    weight: Float[Tensor, "B 1 H W"] | None  # in [0, 1], what is drawn anew of every pixel; None: all
    strength: float  # in (0, 1]; 1 begins with noise alone

    def first_step(self, steps: int) -> int:
        """How many of the first ``steps`` are left out."""
        return steps - min(int(steps * self.strength), steps)

    def kept(self, drawn: Float[Tensor, "B C h w"], was: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Latents with the cells to keep from ``was``, the pictures at the same noise level."""
        if self.weight is None:
            return drawn
        anew = F.adaptive_max_pool2d(self.weight, (drawn.shape[2], drawn.shape[3])) > 0
        return torch.where(anew, drawn, was)

    def pasted(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Decoded pictures, about in [-1, 1], with the pixels to keep as they were."""
        if self.weight is None:
            return images
        return self.pixels + self.weight * (images - self.pixels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditAsked:
    """What a call says of pictures to change."""

    image: Sequence[UInt8[np.ndarray, "H W 3"]] | None
    strength: float | None  # None: STRENGTH, or 1 for a part
    mask_image: Any
    instances: Instances | None
    border: int

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the first picture."""
        return None if self.image is None else (self.image[0].shape[0], self.image[0].shape[1])

    def problems(self) -> list[str]:
        """What contradicts itself or is out of range."""
        given = {"strength": self.strength, "mask_image": self.mask_image, "only_instances": self.instances}
        alone = [name for name, value in given.items() if value is not None]
        found = []
        if alone and self.image is None:
            found.append(f"{', '.join(alone)}: which picture is to be changed? Give it as image")
        if self.mask_image is not None and self.instances is not None:
            found.append("mask_image and only_instances both say what is drawn anew: give one of them")
        if self.strength is not None and not 0.0 < self.strength <= 1.0:
            found.append(f"strength must lie in (0, 1], got {self.strength}")
        if self.border < 0:
            found.append(f"border must be 0 or more pixels, got {self.border}")
        return found


def made_edit(asked: EditAsked, encoded: EncodedRequest, vae: AutoencoderKL, device: torch.device) -> Edit | None:
    """The pictures to change, encoded, and what of them is kept; None where none was given.

    Raises:
        MamoeError: pictures, masks or segments that do not go with the request.
    """
    if asked.image is None:
        return None
    weight = None
    if asked.instances is not None:
        masks = instance_masks(asked.instances, encoded.requests, encoded.copies)
        weight = weights_of(torch.from_numpy(np.stack(masks)), asked.border)
    elif asked.mask_image is not None:
        weight = weights_of(fitted(given_masks(asked.mask_image), encoded, "mask_image"), asked.border)
    pictures = fitted(asked.image, encoded, "image").permute(0, 3, 1, 2)
    pixels = sent(pictures, device).float() / 127.5 - 1
    part = STRENGTH if weight is None else 1.0
    return Edit(
        pixels=pixels,
        latents=_encoded(vae, pixels),
        weight=None if weight is None else sent(weight, device),
        strength=part if asked.strength is None else asked.strength,
    )


def _encoded(vae: AutoencoderKL, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    # The mean, because noise of the posterior would be seen in what is kept; one by one, so that no picture depends
    # on its batch mates.
    with without_overflow(vae, pixels.device):
        means = [posterior_of(vae, picture[None].to(vae.dtype)).mean.float() for picture in pixels]
    return LatentScaling.of(vae).scaled(torch.cat(means))


def source_pictures(image: Any) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The pictures of a call as RGB.

    Raises:
        MamoeError: something else than pictures, or numbers outside [0, 1].
    """
    listed = list(image) if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4 else [image]
    pictures, problems = [], [] if listed else ["image holds no picture"]
    for number, one in enumerate(listed):
        try:
            pictures.append(_rgb(one))
        except ValueError as error:
            problems.append(f"image {number}: {error}")
    refuse(problems)
    return pictures


def given_masks(mask_image: Any) -> list[Bool[np.ndarray, "H W"]]:
    """Where pictures are drawn anew, as the user painted it.

    Raises:
        MamoeError: a mask that is none, or that says nothing.
    """
    listed = list(mask_image) if isinstance(mask_image, list | tuple) else [mask_image]
    if not isinstance(mask_image, list | tuple) and getattr(mask_image, "ndim", 2) > 2:
        plain = mask_image[..., 0] if mask_image.shape[-1] == 1 else mask_image  # [B H W 1], as diffusers writes them
        coloured = plain.shape[-1] in (3, 4)  # [H W 3], which is refused
        listed = [plain] if coloured else list(plain.reshape(-1, *plain.shape[-2:]))
    try:
        masks = [_mask(one) for one in listed]
    except ValueError as error:
        refuse([str(error)])
        raise
    empty = [number for number, mask in enumerate(masks) if not mask.any()]
    refuse([f"mask_image {number} is black all over: nothing would be drawn anew" for number in empty])
    return masks


def instance_masks(instances: Instances, requests: Sequence[Request], copies: int) -> list[Bool[np.ndarray, "H W"]]:
    """Where the instances of each request are; ``copies`` requests at a time are of one prompt.

    Raises:
        MamoeError: no segment ids, or those of segments that a map does not have.
    """
    listed = [instances] if isinstance(instances, int | np.integer) else list(instances)
    groups: list[Any] = [listed] if all(isinstance(one, int | np.integer) for one in listed) else listed
    each = groups * len(requests) if len(groups) == 1 else [group for group in groups for _ in range(copies)]
    if len(each) != len(requests) or not all(groups):
        refuse([f"only_instances are segment ids, for all pictures or for each: got {instances!r:.80}"])
    problems, masks = [], []
    for number, (request, group) in enumerate(zip(requests, each, strict=True)):
        panoptic = request.panoptic
        known = {} if panoptic is None else panoptic.classes
        if missing := [segment for segment in group if segment not in known]:
            problems.append(f"picture {number}: only_instances names segments {missing}, but the map has {[*known]}")
        elif panoptic is not None:
            masks.append(np.isin(panoptic.segment_id, list(group)))
    refuse(problems)
    return masks


def weights_of(masks: Bool[Tensor, "B H W"], border: int) -> Float[Tensor, "B 1 H W"]:
    """1 inside a mask, less with every pixel outside it, 0 where the next masked pixel is more than ``border`` away.

    Distances count rows or columns, whichever is more.
    """
    grown = masks[:, None].float()
    total = grown
    for _ in range(border):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        total = total + grown
    return total / (border + 1)


def fitted(arrays: Sequence[np.ndarray], encoded: EncodedRequest, what: str) -> Tensor:
    """Arrays [H W ...] of the size asked for as one batch of the size that is drawn; one serves for all pictures.

    Raises:
        MamoeError: another number or size.
    """
    count, copies = len(encoded.requests), encoded.copies
    if len(arrays) not in (1, count // copies):
        refuse([f"{what}: there are {len(arrays)} for {count // copies} pictures; give one for all, or one each"])
    sizes = sorted({array.shape[:2] for array in arrays})
    if sizes != [encoded.asked]:
        refuse([f"{what} must have the pictures' size {encoded.asked} (H, W), got {', '.join(map(str, sizes))}"])
    batch = torch.from_numpy(np.stack([np.ascontiguousarray(continued(one, encoded.size)) for one in arrays]))
    return batch.repeat_interleave(count if len(arrays) == 1 else copies, dim=0)


def _rgb(picture: Any) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(picture, Image):
        return as_rgb(picture)
    if isinstance(picture, Tensor):
        picture = picture.detach().float().cpu().permute(1, 2, 0).numpy() if picture.ndim == 3 else picture.numpy()
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"wanted a PIL picture, uint8 [H W 3] or numbers in [0, 1], got {array.dtype} {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not (array.min() >= 0.0 and array.max() <= 1.0):
        raise ValueError(f"numbers of pictures lie in [0, 1], got {array.min():.3g} to {array.max():.3g}")
    return (array * 255).round().astype(np.uint8)


def _mask(mask: Any) -> Bool[np.ndarray, "H W"]:
    if isinstance(mask, Image):
        mask = np.asarray(mask.convert("L"))
    array = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if array.ndim != 2:
        raise ValueError(f"a mask_image is a picture in grey or an array [H W], got {array.dtype} {array.shape}")
    if array.dtype == bool:
        return array
    return array >= (128 if array.dtype == np.uint8 else 0.5)
