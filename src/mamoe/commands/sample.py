"""The command that draws a folder of maps. Thin, as the cli."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mamoe.console import progress, warn
from mamoe.errors import ConfigError
from mamoe.machine.stopping import stopped_with
from mamoe.vocabulary.drawing import DRAWING, Drawing, mode_of

if TYPE_CHECKING:
    from mamoe.sampling.jobs import Editing

BaseOption = Annotated[
    str | None, typer.Option(help="Place of the run's base model, if it is not where it was during training.")
]


class Precision(StrEnum):
    """Number format of the weights that draw."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def sample(
    run: Annotated[Path, typer.Argument(help="A run, one of its checkpoints, or a saved pipeline.")],
    panoptic: Annotated[Path, typer.Option(help="Folder of panoptic PNGs, or one of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    prompts: Annotated[Path | None, typer.Option(help="CSV with img_name,prompt.")] = None,
    instance_prompts: Annotated[Path | None, typer.Option(help="JSON with a prompt per segment.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from, in all pictures.")] = "",
    conditions: Annotated[
        Path | None, typer.Option(help="Folder of condition pictures; default: drawn from the maps, if need be.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(min=8, metavar="H W", help="Of the pictures; default: the maps' own.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Maps lie in folders, and pictures will.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Pictures of each map: NAME_0, NAME_1 and so on.")] = 1,
    vary: Annotated[
        Path | None, typer.Option(help="CSV with variant,prompt: each map is drawn with each, as NAME_VARIANT.")
    ] = None,
    only_instance: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Segment to draw anew in --image; may be repeated.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Pictures to change, named as the maps, or one; see --only-instance.")
    ] = None,
    border: Annotated[int, typer.Option(min=0, help="Pixels in which the new instance fades into the old.")] = 8,
    strength: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="1: the new instance has nothing of the old one.")
    ] = 1.0,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    seed: Annotated[int, typer.Option(help="Of the whole job.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = DRAWING.steps,
    scheduler: Annotated[
        str | None, typer.Option(help="Of diffusers, as euler-discrete or DPMSolverMultistep; default: DDIM.")
    ] = None,
    guidance_scale: Annotated[float, typer.Option(min=0.0)] = DRAWING.guidance_scale,
    rescale: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Of guidance; default: 0.7 for a zero-SNR schedule, else 0.")
    ] = None,
    guidance_layout: Annotated[
        float | None, typer.Option(min=0.0, help="On the layout by itself, --guidance-scale being that on the prompt.")
    ] = None,
    regions_from: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the steps from which prompts of segments bind.")
    ] = 0.0,
    regions_until: Annotated[float, typer.Option(min=0.0, max=1.0, help="And until which.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1)] = DRAWING.batch_size,
    jpeg: Annotated[bool, typer.Option("--jpeg", help="JPEG in place of PNG: a tenth of the size.")] = False,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the weights; default: bf16 on a GPU that has it, else fp32.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="For many pictures: record the model's work on a GPU, compile it elsewhere."),
    ] = False,
) -> None:
    """Draw pictures for every panoptic map of a folder, with a JSON record each and a contact sheet.

    Started again, it goes on where it stopped; torchrun shares the work.

    Example: mamoe sample runs/mamoe/latest --panoptic maps --out pictures
    """
    from mamoe.machine.devices import usable_device
    from mamoe.machine.libraries import quiet_libraries
    from mamoe.machine.precision import drawing_format
    from mamoe.machine.processes import started_processes
    from mamoe.sampling.folders import sample_folder
    from mamoe.sampling.jobs import LayoutFolder
    from mamoe.sampling.pipeline import LayoutPipeline
    from mamoe.sampling.schedulers import scheduler_named

    quiet_libraries()
    device = usable_device(device)
    dtype = drawing_format(device, precision)
    layouts = LayoutFolder(
        panoptic=panoptic,
        prompts=prompts,
        instance_prompts=instance_prompts,
        negative_prompt=negative_prompt,
        conditions=conditions,
        size=size,
        recursive=recursive,
        count=count,
        vary=vary,
        jpeg=jpeg,
        editing=_editing(image, only_instance, border, strength, jpeg),
    )
    drawing = Drawing(
        mode=mode_of(guidance_scale, guidance_layout),
        steps=steps,
        guidance_scale=guidance_scale,
        guidance_layout=guidance_layout,
        regions_from=regions_from,
        regions_until=regions_until,
        rescale=rescale,
        batch_size=batch_size,
        seed=seed,
    )
    pipe = LayoutPipeline.from_pretrained(run, checkpoint=checkpoint, base=base, torch_dtype=dtype)
    if scheduler is not None:
        pipe.scheduler = scheduler_named(scheduler, pipe.scheduler)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    kept = stopped_with(f"finished pictures are kept in {out}; the same command goes on from there.")
    with kept, started_processes() as processes, progress("Drawing") as update:
        result = sample_folder(
            pipe,
            layouts,
            out,
            drawing,
            processes=processes,
            progress=update,
            warn=warn,
            fast=fast,
        )
    if processes.first:
        count = len(result.pictures)
        new = f"{count} picture{'' if count == 1 else 's'} in {out}, {result.drawn} of them new"
        typer.echo(f"{new}; all of them: {result.contact_sheet}")


def _editing(
    image: Path | None, instances: list[int] | None, border: int, strength: float, jpeg: bool
) -> Editing | None:
    from mamoe.sampling.jobs import Editing

    if (image is None) != (not instances):
        raise ConfigError("--image and --only-instance belong together: the pictures, and what is drawn anew in them.")
    if image is None or not instances:
        return None
    if jpeg:
        raise ConfigError("--jpeg changes every pixel, and --only-instance is to keep most of them: leave --jpeg out.")
    return Editing(images=image, instances=tuple(instances), border=border, strength=strength)
