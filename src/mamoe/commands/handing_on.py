"""The commands that hand a model on. Thin, as the cli."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mamoe.commands.sample import BaseOption
from mamoe.console import note
from mamoe.errors import ConfigError


class Weights(StrEnum):
    """Number format of exported weights."""

    FP16 = "fp16"
    FP32 = "fp32"


class ExportFormat(StrEnum):
    """What a run is exported as."""

    PIPELINE = "pipeline"
    MERGED = "merged"
    UNET = "unet"
    DENSE = "dense"
    SINGLE_FILE = "single-file"
    DIFFUSERS_LORA = "diffusers-lora"
    KOHYA = "kohya"


_LORA = (ExportFormat.DIFFUSERS_LORA, ExportFormat.KOHYA)


def export(
    run: Annotated[Path, typer.Argument(help="A run or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    weights: Annotated[Weights, typer.Option(help="Number format.")] = Weights.FP16,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="pipeline: all of it. merged: the same, of a run with an adapter. unet: that alone. dense: a stock "
            "pipeline of the model without a map. single-file: that as one file for ComfyUI and others. "
            "diffusers-lora, kohya: a run's LoRA alone."
        ),
    ] = ExportFormat.PIPELINE,
) -> None:
    """Write a run as one folder with a model card: a LayoutPipeline, a stock one, one file, or its LoRA.

    Example: mamoe export runs/mamoe/latest pipeline
    """
    from mamoe.commands.export import Form, export_lora, export_run
    from mamoe.machine.libraries import quiet_libraries
    from mamoe.methods.lora_file import LoraFile

    quiet_libraries()
    half = weights is Weights.FP16
    if format not in _LORA:
        left = export_run(run, out, form=Form(format.value), checkpoint=checkpoint, base=base, half=half)
        for line in left:
            note(f"Left out, because stock models have no place for it: {line}.")
    else:
        if base is not None:
            raise ConfigError(f"--format {format.value} writes nothing of the base model: leave --base out.")
        out = export_lora(run, out, form=LoraFile(format.value), checkpoint=checkpoint, half=half)
    typer.echo(f"Written to {out}.")


def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `mamoe export` made.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository can be seen by everybody.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes; nothing leaves.")] = False,
) -> None:
    """Upload an exported folder to the Hugging Face hub, in one commit; a new repository is private.

    Who you are is known to the hub's own client: `hf auth login`, or the environment's HF_TOKEN.

    Example: mamoe push pipeline me/my-streets --dry-run
    """
    from mamoe.commands.push import files_to_push, listing, push_folder
    from mamoe.machine.stopping import stopped_with

    files = files_to_push(folder, repo)
    typer.echo(listing(folder, files))
    if dry_run:
        typer.echo(f"Nothing was sent. Without --dry-run these go to {repo}.")
        return
    with stopped_with(f"nothing of {repo} was changed, or all of it."):
        typer.echo(f"Sent to {push_folder(folder, repo, files, public=public)}")
