"""The command that makes a training set for perception. Thin, as the cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mamoe.commands.sample import BaseOption, Precision
from mamoe.console import progress
from mamoe.machine.stopping import stopped_with
from mamoe.vocabulary.drawing import DRAWING, Drawing, mode_of


def synthesize(
    run: Annotated[Path, typer.Argument(help="A run, one of its checkpoints, or a saved pipeline.")],
    data: Annotated[Path, typer.Option(help="Data set whose pictures teach the segmenter.")],
    out: Annotated[Path, typer.Option(help="Folder of the new data set.")],
    pictures: Annotated[int | None, typer.Option(min=1, help="To draw; default: one for each map.")] = None,
    layouts: Annotated[
        Path | None, typer.Option(help="Data set of the same classes whose maps are drawn; default: --data.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the maps.")] = "train",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            min=8, metavar="H W", help="Of the pictures; default: the run's, of a pipeline that in data.yaml."
        ),
    ] = None,
    flip: Annotated[float, typer.Option(min=0, max=1, help="Share of the layouts that are mirrored.")] = 0.5,
    mix: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the layouts that get instances of other maps.")
    ] = 0.5,
    rare: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="May be repeated; default: classes with under 1 % of the pixels."),
    ] = None,
    rare_share: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of the pictures, in which each rare class is to stand.")
    ] = 0.25,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Times the mean loss of its class, above which a pixel becomes void.")
    ] = 1.25,
    floor: Annotated[
        float, typer.Option(min=0, max=1, help="Share of its pixels that must be read as the map says.")
    ] = 0.5,
    work: Annotated[
        Path | None, typer.Option(help="Folder for layouts, drawings and readings; default: OUT.work.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    seed: Annotated[int, typer.Option(help="Of the whole set.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = DRAWING.steps,
    guidance_scale: Annotated[float, typer.Option(min=0.0)] = DRAWING.guidance_scale,
    batch_size: Annotated[int, typer.Option(min=1)] = DRAWING.batch_size,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the weights; default: bf16 on a GPU that has it, else fp32.")
    ] = None,
) -> None:
    """Make a training set for perception: draw maps by how hard they are, read the pictures back, keep what is right.

    Started again, it goes on where it stopped; torchrun shares the drawing.

    Example: mamoe synthesize runs/mamoe/latest --data data/cityscapes --out data/synthetic --pictures 3000
    """
    from mamoe.assemble.synthesis import material_of, settings_of_pipeline, settings_of_run
    from mamoe.machine.devices import usable_device
    from mamoe.machine.libraries import quiet_libraries
    from mamoe.machine.precision import drawing_format
    from mamoe.machine.processes import started_processes
    from mamoe.runs.lookup import find_checkpoint, is_run
    from mamoe.sampling.pipeline import LayoutPipeline
    from mamoe.synthesis.plan import Aims
    from mamoe.synthesis.reading import Rules
    from mamoe.synthesis.run import Wanted
    from mamoe.synthesis.run import synthesize as make_set

    quiet_libraries()
    device = usable_device(device)
    model = find_checkpoint(run, checkpoint) if is_run(run) else run
    dtype = drawing_format(device, precision)
    pipe = LayoutPipeline.from_pretrained(model, checkpoint=checkpoint, base=base, torch_dtype=dtype)
    if is_run(run):
        settings = settings_of_run(model, size)
    else:
        settings = settings_of_pipeline(pipe.settings, layouts or data, size)
    material = material_of(settings, data, layouts, split=split, bar=progress)
    aims = Aims(pictures=pictures or len(material.layouts), flip=flip, mix=mix, rare_share=rare_share, seed=seed)
    wanted = Wanted(
        out=out,
        work=work or out.with_name(f"{out.resolve().name}.work"),
        aims=aims,
        rules=Rules(tolerance=tolerance, floor=floor),
        rare=None if rare is None else tuple(rare),
    )
    drawing = Drawing(
        mode=mode_of(guidance_scale), steps=steps, guidance_scale=guidance_scale, batch_size=batch_size, seed=seed
    )
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    kept = stopped_with(f"what is finished is kept in {wanted.work}; the same command goes on from there.")
    with kept, started_processes() as processes:
        summary = make_set(
            pipe,
            material,
            wanted,
            drawing,
            processes=processes,
            bar=progress,
            warn=lambda line: typer.echo(f"Warning: {line}", err=True),
        )
    if summary is not None:
        typer.echo(summary.text())
        typer.echo(f"Layouts, drawings and readings: {wanted.work}")
    elif processes.first:
        typer.echo(f"{out} is there already, made of the same maps, model and settings: nothing to do.")
