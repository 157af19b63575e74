"""A run's checkpoint as a base model: its networks where it trained them, its own base model's elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from mamoe.bases.parts import Parts, Trained
from mamoe.diffusion.schedules import Schedule, schedule_from
from mamoe.errors import ConfigError
from mamoe.methods.registry import method_of
from mamoe.models.backbones import BACKBONES, backbone_named, backbone_of
from mamoe.models.control.call import with_layout
from mamoe.runs.adapter import ADAPTER, load_adapter, was_rounded
from mamoe.runs.lookup import part_of_network, require_sound
from mamoe.runs.recipe import Recipe
from mamoe.runs.source import Source

_NETWORKS = {kind.__name__: kind for backbone in BACKBONES for kind in (backbone.ours, backbone.stock)}
_TEXT = "text_encoder"


class RunParts:
    """Reads the parts of the model that a checkpoint holds.

    Args:
        checkpoint: the folder.
        recipe: what it says besides weights.
        parts: of the base model it was trained on.
        base: where that is.
        ema: take averaged weights where there are some.
    """

    def __init__(self, checkpoint: Path, recipe: Recipe, parts: Parts, *, base: Source, ema: bool = True) -> None:
        self.checkpoint, self.base = checkpoint, base
        self._recipe, self._base, self._ema = recipe, parts, ema

    @property
    def averaged(self) -> bool:
        """Whether its weights are an average of the training's."""
        return self._folder("unet").name.endswith("_ema")

    @property
    def trained_text(self) -> bool:
        """Whether it has a text encoder of its own."""
        return self._folder(_TEXT).is_dir()

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter, if that is all it holds of the UNet."""
        folder = self._folder("unet")
        return folder if (folder / ADAPTER).is_file() else None

    def index(self) -> Mapping[str, Any]:
        return self._base.index()

    def trained(self) -> Trained:
        terms = self._recipe.terms
        return Trained(layout=terms.layout.to_dict(), condition=terms.condition, method=terms.method)

    def unet(self, dtype: torch.dtype) -> Any:
        require_sound(self.checkpoint, [self._folder("unet").name])
        if self.adapter is None:
            kind = _NETWORKS[self._config()["_class_name"]]
            return nn.Module.to(kind.from_pretrained(self._folder("unet"), use_safetensors=True), dtype)
        method = method_of(self._recipe.terms.method)
        # What was learned beside weights in bfloat16 is drawn beside such where that is asked for, else beside whole.
        reads = dtype if dtype is torch.bfloat16 and was_rounded(self.adapter) else torch.float32
        unet = method.prepare(self.unet_without_adapter(reads), seed=0)  # what the seed decides is read from the file
        load_adapter(unet, self.adapter)
        return nn.Module.to(method.merged(unet), dtype)

    def unet_without_adapter(self, dtype: torch.dtype = torch.float32) -> Any:
        """The UNet that the adapter was trained beside, in ``dtype``; experts that its method replaces are not made."""
        config, unet = self._config(), self._base.unet(dtype)
        backbone = backbone_of(unet)
        if backbone_named(config["_class_name"]) is not backbone:
            raise ConfigError(
                f"{self.checkpoint} was trained beside a {backbone_named(config['_class_name']).stock.__name__}, and "
                f"{self.base.path} is a {backbone.stock.__name__}. Give the base model that it was trained on."
            )
        if config["_class_name"] != backbone.ours.__name__:
            return unet
        copies = not method_of(self._recipe.terms.method).replaces_experts
        return with_layout(unet, copies=copies, **{key: config[key] for key in backbone.own_config if key in config})

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        if part != _TEXT or not self.trained_text:
            return self._base.network(kind, part, dtype)
        folder = self._folder(_TEXT)
        require_sound(self.checkpoint, [folder.name])
        return cast(Any, CLIPTextModel.from_pretrained(folder, use_safetensors=True)).to(dtype)

    def tokenizer(self, part: str) -> Any:
        return self._base.tokenizer(part)

    def scheduler(self) -> Schedule:
        return schedule_from(self._recipe.scheduler)

    def _folder(self, name: str) -> Path:
        return part_of_network(self.checkpoint, name, self._ema)

    def _config(self) -> dict[str, Any]:
        config = cast(dict[str, Any], UNet2DConditionModel.load_config(self._folder("unet")))
        if config["_class_name"] not in _NETWORKS:
            known = ", ".join(_NETWORKS)
            raise ConfigError(f"{self._folder('unet')} holds a {config['_class_name']}; wanted one of {known}.")
        return config
