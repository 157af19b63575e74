"""What a training starts from: a base model, or a model that this package trained before, whose parts all go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from mamoe.bases.pretrained import BaseModel, Formats, load_base
from mamoe.config.train import Train
from mamoe.data.condition import drawn_kind
from mamoe.errors import ConfigError
from mamoe.machine.skeleton import without_memory
from mamoe.methods.method import require_fits
from mamoe.methods.options import ConcatOptions, ControlNetXSOptions
from mamoe.models.backbones import backbone_of
from mamoe.models.blocks.conversion import levels_with_experts
from mamoe.models.blocks.held import lets_go
from mamoe.models.control.call import Control, control_of, with_layout
from mamoe.models.frozen import Frozen
from mamoe.runs.folder import run_of
from mamoe.runs.lookup import CHECKPOINTS, find_checkpoint, is_run
from mamoe.runs.recipe import read_recipe
from mamoe.runs.source import Source
from mamoe.vocabulary.layout import LayoutSettings, Strength

_TAKES = {Control.PICTURE: ControlNetXSOptions.name, Control.LATENT: ConcatOptions.name}


def base_of(config: Train) -> BaseModel:
    """The configured base model, or run to start from.

    Raises:
        ConfigError: it cannot be loaded.
    """
    model = config.model
    where = {key: getattr(model, key) for key in ("revision", "variant", "config", "tokenizer", "vae")}
    how: dict[str, Any] = {"method": config.method.model_dump(), "trains_text": model.train_text_encoder}
    how["formats"] = Formats(network=Frozen(model.frozen_precision).dtype, text=text_dtype_of(config))
    if (kept := _kept_source(config)) is not None:
        return load_base(**kept.to_dict(), **how)
    if model.init_from is None:
        assert model.path is not None, "the configuration was validated"
        return load_base(model.path, **where, **how)
    if not is_run(Path(model.init_from)):
        raise ConfigError(
            f"model.init_from={model.init_from}: there is no run there, and no checkpoint. Give runs/<name>/<run>, or "
            "one of its checkpoints; any other model is model.path."
        )
    return load_base(model.init_from, base=model.path, **where, **how)


def text_dtype_of(config: Train) -> torch.dtype | None:
    """What the text encoders' weights are kept in; None: what is usual for their kind.

    Raises:
        ConfigError: a text encoder that is trained is to be kept in less than float32.
    """
    model = config.model
    if model.train_text_encoder and model.text_precision not in (None, "fp32"):
        raise ConfigError(
            f"model.text_precision={model.text_precision} is for text encoders that stay as they are; "
            "model.train_text_encoder=true trains one in float32. Leave one of them out."
        )
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
    return torch.float32 if model.train_text_encoder else known.get(model.text_precision or "")


def _kept_source(config: Train) -> Source | None:
    """What a resumed run's checkpoint names as base, where the run it once started from is not there any more."""
    start = Path(config.model.init_from or config.model.path or "")
    is_checkpoint = start.parent.name == CHECKPOINTS
    if not is_checkpoint or start.exists() or config.resume in (None, "auto"):
        return None
    return read_recipe(find_checkpoint(run_of(config.resume))).base


def check_fit(config: Train, base: BaseModel, settings: LayoutSettings) -> None:
    """Refuse, before anything is encoded, what the base model cannot be made.

    Raises:
        ConfigError: something that it learned before does not fit the configuration (both are named), or its family
            takes no such method or strength of regions.
    """
    if problems := _misfits(config, base, settings):
        raise ConfigError(
            f"{_named(config)} was trained before, and what it learned does not fit these settings: "
            f"{'; '.join(problems)}. Nothing of it is dropped: change the settings, or start from its base model."
        )
    require_fits(base.unet, config.method.name)
    backbone = backbone_of(base.unet)
    if settings.region_attention and settings.strength is not Strength.HARD and not backbone.weighs:
        raise ConfigError(
            f"regions.strength={settings.strength} weighs the text that a cell reads, and in a "
            f"{backbone.stock.__name__} text reads cells, too, by a mask that says yes or no: set "
            "regions.strength=hard."
        )
    by_number = config.layout.blocks is not None or config.layout.moe_levels is not None
    if by_number and (settings.region_attention or settings.moe):
        # Which places there are only the network can tell, and one without weights will do.
        network = getattr(base.unet, "base", base.unet)
        with without_memory():
            hollow = type(network).from_config(network.config)
        with_layout(hollow, **_layout_options(config, base, settings), copies=False)


def steered_unet(config: Train, base: BaseModel, settings: LayoutSettings) -> Any:
    """The base UNet, with region attention and experts where the configuration wants them.

    What it learned before goes on: experts, strengths of region attention, a branch for condition pictures.

    Raises:
        ConfigError: see :func:`check_fit`.
    """
    check_fit(config, base, settings)
    if not settings.region_attention and not settings.moe:
        return base.unet
    return with_layout(
        base.unet, **_layout_options(config, base, settings), copies=not config.method.kind.replaces_experts
    )


def _layout_options(config: Train, base: BaseModel, settings: LayoutSettings) -> dict[str, Any]:
    return {
        "num_experts": settings.num_experts,
        "region_attention": settings.region_attention,
        "region_blocks": config.layout.blocks if settings.region_attention else None,
        "moe_levels": config.layout.moe_levels,
        "learned_strength": settings.strength is Strength.LEARNED,
        "shared_expert": base.unet.config.get("shared_expert", False),
    }


def started_from(config: Train, base: BaseModel) -> str | None:
    """In words, where the weights come from and where the rest; None = an ordinary base model."""
    trained = base.trained
    if base.run is None:
        return None if trained.layout is None else f"Starting from {base.source.path}, which was trained before."
    weights = "averaged weights" if base.run.averaged else "weights"
    method = "full" if trained.method is None else trained.method["name"]
    if base.adapter is not None:
        how = f", whose {method} is trained on"
    elif base.run.adapter is not None:
        how = f", whose {method} becomes part of the weights"
        if config.method.kind.keeps_adapter_alone:
            how += f" that method={config.method.name} is trained beside: keep that folder, the new run needs it"
    else:
        how = ""
    text = " and trained text encoder" if base.run.trained_text else ""
    rest = "its base model's" if base.source.base is None else f"those of {base.source.base}"
    return f"Starting from the {weights}{text} of {base.run.checkpoint}{how}. The other parts are {rest}."


def source_to_keep(config: Train, base: BaseModel, *, adapter_alone: bool) -> Source:
    """What a checkpoint has to name as its base model: a run's own one, where nothing of the run itself is needed."""
    run = base.run
    needs_unet = adapter_alone and base.adapter is None
    if run is None:
        return base.source
    if needs_unet or (run.trained_text and not config.model.train_text_encoder):
        return replace(base.source, path=str(run.checkpoint))
    return run.base


def _misfits(config: Train, base: BaseModel, settings: LayoutSettings) -> list[str]:
    control, problems = control_of(base.unet), []
    method = config.method.name
    if control is not None and method != _TAKES[control]:
        problems.append(f"it is shown a condition picture, by method={_TAKES[control]}; the configuration has {method}")
    was, now = base.trained.condition, config.data.condition
    if control is not None and now is not None and was is not None and drawn_kind(was) != drawn_kind(now):
        problems.append(f"it was shown data.condition={was}, the configuration shows data.condition={now}")
    if base.trained.layout is None:
        return problems + _misfits_of_numbers(config, base.unet, settings)
    was = LayoutSettings.from_dict(base.trained.layout)
    return problems + _misfits_of_layout(config, base.unet, was, settings, adapter=base.adapter is not None)


def _misfits_of_numbers(config: Train, unet: UNet2DConditionModel, settings: LayoutSettings) -> list[str]:
    has, wanted = unet.config.get("num_experts", 1), settings.num_experts
    experts = [f"it has {has} experts, this configuration asks for {wanted}"] if has > 1 and has != wanted else []
    return experts + _misfits_of_levels(config, unet)


def _misfits_of_layout(
    config: Train, unet: Any, was: LayoutSettings, now: LayoutSettings, *, adapter: bool
) -> list[str]:
    problems = []
    if was.num_experts > 1 and (difference := _difference(was, now)) is not None:
        problems.append(
            f"it has {_experts(was)}, this configuration asks for {_experts(now)}{difference}; "
            f"layout.moe=true layout.grouping={_grouping(was)} goes on with them"
        )
    elif was.num_experts > 1:
        problems += _misfits_of_levels(config, unet)
    elif adapter and (now.num_experts > 1 or was.strength != now.strength):
        problems.append(
            f"its {config.method.name} belongs to these experts: {_experts(was)}, and regions.strength={was.strength}; "
            f"this configuration asks for {_experts(now)} and {now.strength}; exported (`mamoe export`) it is part of "
            "the weights, from which these can start"
        )
    if was.region_attention and not now.region_attention:
        problems.append("it was trained with layout.region_attention=true, this configuration has false")
    elif was.region_attention and lets_go(held := unet.config.get("region_blocks"), config.layout.blocks):
        had = "null (all)" if held is None else held
        problems.append(f"it was trained with layout.blocks={had}, this configuration has {config.layout.blocks}")
    if was.strength != now.strength and was.region_attention and (was.strength, now.strength) != _OPENS:
        problems.append(f"it has regions.strength={was.strength}, this configuration has {now.strength}")
    return problems


_OPENS = (Strength.HARD, Strength.LEARNED)  # a learned strength starts as a hard one


def _misfits_of_levels(config: Train, unet: Any) -> list[str]:
    has, asked = levels_with_experts(unet), config.layout.moe_levels
    wanted = tuple(sorted(set(backbone_of(unet).levels_with_blocks(unet) if asked is None else asked)))
    if not has or has == wanted:
        return []
    return [f"its experts are on levels {list(has)}, layout.moe_levels={asked} asks for {list(wanted)}"]


def _difference(was: LayoutSettings, now: LayoutSettings) -> str | None:
    """Why the experts of one layout cannot be those of the other; empty text = their names say it; None = they can.

    Classes go by name: of two data sets each may have classes that the other does not know.
    """
    if not now.moe or was.experts.names != now.experts.names:
        return ""
    groups, others = _group_of(was), _group_of(now)
    odd = [name for name in groups if name in others and groups[name] != others[name]]
    listed = ", ".join(f"{name} ({groups[name]}, now {others[name]})" for name in odd[:3])
    return f", with other classes in them: {listed}" if odd else None


def _group_of(layout: LayoutSettings) -> Mapping[str, str]:
    experts = layout.experts
    return {row.name: experts.names[experts.expert_of_class[row.id]] for row in layout.taxonomy.classes}


def _experts(layout: LayoutSettings) -> str:
    if not layout.moe:
        return "none (layout.moe=false)"
    return f"{layout.num_experts} experts of the grouping {_grouping(layout)} ({_listed(layout.experts.names)})"


def _grouping(layout: LayoutSettings) -> str:
    return layout.grouping if isinstance(layout.grouping, str) else "{…}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _named(config: Train) -> str:
    model = config.model
    return f"model.path={model.path}" if model.init_from is None else f"model.init_from={model.init_from}"
