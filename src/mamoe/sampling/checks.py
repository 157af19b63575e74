"""What the pipeline refuses: parts that do not fit each other, folders that are no model, calls nobody can mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mamoe.bases.pretrained import text_problems
from mamoe.diffusion.schedules import is_flow
from mamoe.errors import ConfigError
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import control_of
from mamoe.models.wrapped import unwrapped
from mamoe.runs.recipe import RECIPE
from mamoe.sampling.requests import Request
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.layout import LayoutSettings, Strength

_OF_RUNS = {"checkpoint": "latest", "ema": True, "base": None}  # with what they say if nothing is said
_TAKEN_BY_RUNS = {*_OF_RUNS, "torch_dtype"}


def check_parts(
    config: Mapping[str, Any], settings: LayoutSettings | None, encoders: Sequence[torch.nn.Module]
) -> None:
    """Refuse a UNet, by its ``config``, that does not go with the layout settings or the text encoders.

    Raises:
        ConfigError: lists what does not fit.
    """
    if problems := text_problems(config, encoders):
        raise ConfigError(f"The parts of this pipeline do not fit: {'; '.join(problems)}.")
    if settings is None:
        return
    if settings.num_experts != config.get("num_experts", 1):
        problems.append(
            f"the layout settings have {settings.num_experts} experts, the UNet {config.get('num_experts', 1)}"
        )
    if settings.region_attention and not config.get("region_attention", False):
        problems.append("the layout settings ask for region attention, the UNet has none")
    learned = config.get("learned_strength", False)
    if learned != (settings.strength is Strength.LEARNED):
        has = "learns" if learned else "does not learn"
        problems.append(f"the layout settings have strength {settings.strength}, the UNet {has} its own")
    if problems:
        raise ConfigError(
            "The layout settings do not fit the UNet: " + "; ".join(problems) + ". Use those it was trained with, or "
            "convert the UNet with MaMoEUNet2DConditionModel.from_unet."
        )


def check_plain(networks: Mapping[str, torch.nn.Module]) -> None:
    """Refuse to save networks with LoRA layers around their weights.

    Raises:
        ConfigError: names the networks.
    """
    wrapped = [
        name for name, network in networks.items() if any(".lora_A." in key for key, _ in network.named_parameters())
    ]
    if wrapped:
        raise ConfigError(
            f"LoRA layers are loaded into {', '.join(wrapped)}, and a saved pipeline has no place for them. Call "
            "fuse_lora() and then unload_lora_weights() to save what they make of the weights, or the latter alone."
        )


def check_folder(folder: Path) -> None:
    """Refuse what cannot be a saved pipeline, a run or a hub name.

    Raises:
        ConfigError: says what was wanted.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is no model: wanted a folder, or one file that ends in .safetensors.")
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"{folder} is no model: wanted a folder with model_index.json (a saved pipeline), checkpoints/ (a run) or "
            f"{RECIPE} (a checkpoint)."
        )
    if not folder.exists() and (folder.is_absolute() or len(folder.parts) != 2 or folder.parts[0] in (".", "..", "~")):
        raise ConfigError(f"There is no folder {folder}, and a hub name looks like owner/name.")


def without_run_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that only a run has.

    Raises:
        ConfigError: one of them says something.
    """
    given = [key for key, default in _OF_RUNS.items() if options.get(key, default) != default]
    if given:
        raise ConfigError(
            f"{path} is no run: it has one set of weights, and all of them itself. Leave out {', '.join(given)}."
        )
    return {key: value for key, value in options.items() if key not in _OF_RUNS}


def options_of_run(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something to a run.

    Raises:
        ConfigError: others do.
    """
    said = {key: value for key, value in options.items() if key in _TAKEN_BY_RUNS or value is not None}
    if odd := sorted(said.keys() - _TAKEN_BY_RUNS):
        raise ConfigError(
            f"{path} is a run, which takes {', '.join(sorted(_TAKEN_BY_RUNS))}; not {', '.join(odd)}. Another "
            "scheduler, or another part, is put in its place afterwards: pipe.scheduler = ..."
        )
    if isinstance(said.get("torch_dtype"), dict):
        raise ConfigError(f"{path} is a run, and has one torch_dtype for all parts; got {said['torch_dtype']!r:.60}.")
    return said


def with_one_dtype(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the number format under the name that all versions of diffusers know.

    Raises:
        ConfigError: it is said twice, or is none.
    """
    said = {key: value for key, value in options.items() if key != "dtype"}
    if options.get("dtype") is not None:
        if said.get("torch_dtype") is not None:
            raise ConfigError("torch_dtype and dtype are one thing: give one of them.")
        said["torch_dtype"] = options["dtype"]
    if said.get("torch_dtype", ...) is None:
        del said["torch_dtype"]
    if not isinstance(said.get("torch_dtype", {}), torch.dtype | dict):
        raise ConfigError(f"torch_dtype is a number format such as torch.float16, got {said['torch_dtype']!r:.60}.")
    return said


def check_branch(condition: str | None, unet: torch.nn.Module) -> None:
    """Refuse a UNet without the branch that its ``condition`` pictures would go through.

    Raises:
        ConfigError: it is not there.
    """
    if condition is not None and control_of(unet) is None:
        raise ConfigError(
            "This pipeline was trained with condition pictures, and its UNet takes none: the ControlNet-XS branch was "
            "not loaded. Read the folder with mamoe.LayoutPipeline.from_pretrained, which loads it too."
        )


def call_problems(scheduler: Any, steps: int, output_type: str, *, flow: bool) -> list[str]:
    """What numbers and names of a call are out of range; ``flow``: the network predicts flows and nothing else."""
    problems, most = [], scheduler.config["num_train_timesteps"]
    if not 1 <= steps <= most:
        problems.append(f"num_inference_steps must lie in 1..{most}, got {steps}")
    if steps == 1 and (last := scheduler.config.get("shift_terminal")):
        problems.append(
            f"num_inference_steps must be at least 2: on this model's schedule the last step begins at {last} of noise "
            "(shift_terminal), and the first one at pure noise"
        )
    if flow and not is_flow(scheduler.config):
        problems.append(
            f"this model predicts a flow, and the scheduler ({type(scheduler).__name__}) is set up for another "
            "prediction: take FlowMatchEulerDiscrete or another FlowMatch… of diffusers, or give yours "
            "prediction_type=flow_prediction and use_flow_sigmas=True"
        )
    if output_type not in ("pil", "np", "pt", "latent"):
        problems.append(f"output_type must be one of pil, np, pt, latent; got {output_type!r}")
    return problems


def size_problems(size: tuple[int, int], network: Any, factor: int) -> list[str]:
    """Why a network cannot draw pictures of ``size`` (H, W); ``factor`` pixels are a side of a latent cell."""
    cells = backbone_of(network).most_cells(unwrapped(network).config)
    if cells is None or max(size) <= cells * factor:
        return []
    return [
        f"height and width {size} are more than the {cells * factor} pixels a side that this model has places for "
        "(pos_embed_max_size)"
    ]


def request_problems(
    requests: Sequence[Request],
    settings: LayoutSettings | None,
    copies: int,
    framing: Framing | None,
    *,
    framed: bool,
) -> list[str]:
    """What of the requests this model does not know; ``framed``: it is told how pictures were cut out."""
    problems = []
    if copies < 1:
        problems.append(f"num_images_per_prompt must be at least 1, got {copies}")
    if framing is not None and not framed:
        problems.append("this base model knows no framing, as those of the SDXL kind do: leave it out")
    maps = [request.panoptic for request in requests if request.panoptic is not None]
    if maps and settings is None:
        problems.append(
            "this model knows no layout: leave out panoptic, or load a model fine-tuned with layouts (one put together "
            'from the components of another pipeline takes layout=pipe.config["layout"] too)'
        )
    elif settings is not None:
        taxonomy = settings.taxonomy
        problems += [f"map {i}: {p}" for i, panoptic in enumerate(maps) for p in taxonomy.check(panoptic)]
    return problems
