"""Z-Image's transformer whose blocks know regions and experts; see :mod:`mamoe.models.joint.steered`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZImageTransformer2DModel
from diffusers.utils import apply_lora_scale
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.machine.transfers import works_ahead
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.joint.steered import SteeredJoint, axes_problems
from mamoe.models.zimage.block import MaMoEZImageBlock, check_takes_mask
from mamoe.models.zimage.patches import patches_of, put_together
from mamoe.models.zimage.sequence import apart_mask, laid_out, longest_prompt
from mamoe.vocabulary.conditioning import LevelConditioning


class MaMoEZImageTransformer2DModel(SteeredJoint, ZImageTransformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``ZImageTransformer2DModel`` with region-masked joint attention and class-aware experts.

    The stock one makes its own mask. With a layout the sequence is put together here instead, of the same layers: see
    :mod:`mamoe.models.zimage.sequence`. Its refiners of text (``context_refiner``) read every prompt by itself, those
    of the picture (``noise_refiner``) read no text; neither has experts.
    """

    stock: ClassVar[type[Any]] = ZImageTransformer2DModel
    blocks: ClassVar[Mapping[str, type[ExpertPlace]]] = {"layers": MaMoEZImageBlock}

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        axes, width, heads = (config.get(key) for key in ("axes_dims", "dim", "n_heads"))
        if axes is None or width is None or heads is None:
            return []
        return axes_problems("axes_dims", axes, width // heads)

    @apply_lora_scale("joint_attention_kwargs")
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Sequence[Float[Tensor, "c 1 _ _"]],
        t: Float[Tensor, "B"],
        cap_feats: Sequence[Float[Tensor, "_ D"]],
        return_dict: bool = True,
        *,
        patch_size: int = 2,
        f_patch_size: int = 1,
        joint_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Any:
        """The stock forward pass, or with a layout that of this class.

        Args:
            x: latents of every image; with a layout all of one size, and ``cap_feats`` all of one length, padded.
            t: 1 minus the share of noise, in [0, 1].
            cap_feats: the text of every image.
            return_dict: False returns a tuple.
            patch_size: cells a side.
            f_patch_size: likewise in time; 1.
            joint_attention_kwargs: ``regions``, a layout; ``scale``, of LoRA layers.
            stock: what else the stock one takes, which a layout does not go with.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model; the latents are no whole number of
                patches, or larger than the model has places for; or something is asked for that is not known here.
        """
        told = dict(joint_attention_kwargs or {})
        levels: Sequence[LevelConditioning] | None = told.pop("regions", None)
        asked = {name for name, value in stock.items() if value is not None} if levels is not None else set[str]()
        if isinstance(x[0], list | tuple):
            raise ValueError("Pictures to look at (lists of lists of latents, the omni mode) are not known here.")
        if odd := sorted(told.keys() | asked):
            raise ValueError(f"This transformer would ignore {', '.join(odd)} beside its latents, text and layout.")
        self._check_size(x, patch_size)
        if levels is None:
            return super().forward(
                list(x), t, list(cap_feats), return_dict, patch_size=patch_size, f_patch_size=f_patch_size, **stock
            )
        key = f"{patch_size}-{f_patch_size}"
        drawn = list(self._steered(torch.stack(tuple(x)).squeeze(2), t, torch.stack(tuple(cap_feats)), levels, key))
        return Transformer2DModelOutput(sample=drawn) if return_dict else (drawn,)  # pyright: ignore[reportArgumentType]

    def _steered(
        self,
        latents: Float[Tensor, "B c h w"],
        t: Float[Tensor, "B"],
        text: Float[Tensor, "B S D"],
        levels: Sequence[LevelConditioning],
        key: str,
    ) -> Float[Tensor, "B c 1 h w"]:
        (height, width), batch, patch = latents.shape[2:], len(latents), int(key.partition("-")[0])
        rows = patches_of(latents, patch)
        level = self.fitting(levels, rows, text)
        self._check_text(level, text.shape[1])
        where = laid_out(level, text.shape[1], batch, latents.device)
        of_text, of_picture = self._rotations(where.text), self._rotations(where.picture)
        noise_level = self.t_embedder(t * self.t_scale).type_as(latents)

        # Picture.
        cells = self.all_x_embedder[key](rows)
        cells = torch.cat([_repeated(self.x_pad_token, cells, where.picture_filled), cells], dim=1)
        for layer in self.noise_refiner:
            cells = self._through(layer, cells, None, of_picture, noise_level)

        # Text.
        words = self.cap_embedder(text)
        words = torch.cat([words, _repeated(self.cap_pad_token, words, where.filled)], dim=1)
        apart = None if where.attend is None else apart_mask(where.region, where.valid)
        for layer in self.context_refiner:
            if apart is not None:
                check_takes_mask(layer.attention)
            words = self._through(layer, words, apart, of_text)

        # Both.
        told: dict[str, Any] = {"routing": level.routing, "cells": rows.shape[1]}
        if where.attend is not None:
            region = F.pad(where.region, (0, where.picture_filled))
            told |= self.masks(where.attend, region)
        sequence, rotations = torch.cat([words, cells], dim=1), torch.cat([of_text, of_picture], dim=1)
        for layer in self.layers:
            sequence = self._through(layer, sequence, None, rotations, noise_level, None, None, None, told)
        drawn = self.all_final_layer[key](sequence[:, -rows.shape[1] :], c=noise_level)
        return put_together(drawn, (height, width), patch).unsqueeze(2)

    def _through(self, layer: nn.Module, *told: Any) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            checkpointed: Any = self._gradient_checkpointing_func  # which diffusers sets with the flag
            return checkpointed(layer, *told)
        return layer(*told)

    def _rotations(self, places: Int64[Tensor, "B T 3"]) -> Shaped[Tensor, "B T c"]:
        """The angles of every place, as complex numbers; of text before position 0 turned the other way."""
        found = self.rope_embedder(places.abs().flatten(0, 1)).unflatten(0, places.shape[:2])
        return torch.where(places[..., :1] < 0, found.conj(), found)

    def _check_size(self, x: Sequence[Tensor], patch: int) -> None:
        most = self.config["axes_lens"][1:]
        for height, width in {(one.shape[-2], one.shape[-1]) for one in x}:
            if height % patch or width % patch:
                raise ValueError(f"Latents must be whole patches of {patch}x{patch} cells, got {height}x{width} cells.")
            if height // patch > most[0] or width // patch > most[1]:
                raise ConfigError(
                    f"This transformer has places for {most[0]}x{most[1]} patches of {patch}x{patch} cells, and the "
                    f"latents have {height}x{width} cells."
                )

    def _check_text(self, level: LevelConditioning, tokens: int) -> None:
        most = self.config["axes_lens"][0] - SEQ_MULTI_OF - 1
        # Of long texts the host asks how they divide into prompts, but not of a device that works ahead of it: there an
        # index out of range ends the process, and encoders cut prompts to fewer tokens.
        if tokens <= most or (level.attend is not None and works_ahead(level.attend.device)):
            return
        if (longest := longest_prompt(level, tokens)) > most:
            raise ConfigError(
                f"This transformer has places for prompts of {most} tokens, and the longest has {longest}."
            )


def _repeated(vector: Float[Tensor, "1 C"], like: Float[Tensor, "B _ C"], count: int) -> Float[Tensor, "B _ C"]:
    return vector.to(like.dtype).expand(len(like), count, -1)
