"""The ``mamoe`` command. Thin: parse, build, call. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mamoe.console import progress
from mamoe.errors import ConfigError, MamoeError
from mamoe.stopping import TRY_AGAIN, Stopped, Terminated, stopped_with, terminable
from mamoe.threads import wait_politely

app = typer.Typer(
    name="mamoe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune latent diffusion models on a narrow domain, steered by panoptic maps and per-instance prompts.",
)

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


BaseOption = Annotated[
    str | None, typer.Option(help="Place of the run's base model, if it is not where it was during training.")
]


class Weights(StrEnum):
    """Number format of exported weights."""

    FP16 = "fp16"
    FP32 = "fp32"


class ExportFormat(StrEnum):
    """What a run is exported as."""

    PIPELINE = "pipeline"
    DIFFUSERS_LORA = "diffusers-lora"
    KOHYA = "kohya"


class Source(StrEnum):
    """Official formats that can be imported."""

    CITYSCAPES = "cityscapes"
    CAMVID = "camvid"
    COCO = "coco"


class Drawn(StrEnum):
    """Kinds of drawn scenes."""

    BROAD = "broad"
    CLOSE_UPS = "close_ups"
    DUSK_TOWN = "dusk_town"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run and page.")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, to make it shorter or longer.")] = None,
) -> None:
    """Draw a small town, fine-tune the tiny base model on it, and leave a page with pictures and scores.

    Started again after Ctrl-C, it goes on where it stopped.
    """
    from mamoe.console import quiet_libraries
    from mamoe.demo.run import run_demo

    quiet_libraries()
    with stopped_with(f"what is finished is kept in {out}; the same command goes on from there."):
        code = run_demo(out, steps=steps)
    raise typer.Exit(code)


@app.command(context_settings=PASS_ON)
def train(
    context: typer.Context,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="Sweep over comma-separated values.")] = False,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """Fine-tune a model: mamoe train data=… experiment=… [any.key=value] [resume=RUN]

    Composes the Hydra groups callbacks, data, debug, experiment, hydra, logger, lr_scheduler, model, optimizer,
    taxonomy and trainer; a configs/ folder in the working directory is searched too.
    """
    from mamoe.launch import launch, launch_sweep

    with stopped_with("checkpoints and what is in the caches are kept; go on with the same words and resume=auto."):
        if multirun:
            launch_sweep(context.args, config_dir or [])
            return
        code = launch(context.args, config_dir or [])
    raise typer.Exit(code)


@app.command(context_settings=PASS_ON)
def cache(
    context: typer.Context,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """Encode prompts and pictures ahead of a training: mamoe cache data=… experiment=… [any.key=value]

    Takes what `mamoe train` takes; a training with the same words finds everything encoded.
    """
    from mamoe.launch import launch_cache

    with stopped_with("what was encoded is kept; the same command goes on from there."):
        lines = launch_cache(context.args, config_dir or [])
    for line in lines:
        typer.echo(line)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run, one of its checkpoints, or a saved pipeline.")],
    panoptic: Annotated[Path, typer.Option(help="Folder of panoptic PNGs.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    prompts: Annotated[Path | None, typer.Option(help="CSV with img_name,prompt.")] = None,
    instance_prompts: Annotated[Path | None, typer.Option(help="JSON with a prompt per segment.")] = None,
    conditions: Annotated[
        Path | None, typer.Option(help="Folder of condition pictures; default: drawn from the maps, if need be.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(min=8, metavar="H W", help="Of the pictures; default: the maps' own.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Maps lie in folders, and pictures will.")] = False,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    seed: Annotated[int, typer.Option(help="Of the whole job.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance_scale: Annotated[float, typer.Option(min=0.0)] = 4.0,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
) -> None:
    """Draw a picture for every panoptic map of a folder, with a JSON record each and a contact sheet.

    Started again, it goes on where it stopped; torchrun shares the work.
    """
    from mamoe.console import quiet_libraries
    from mamoe.processes import started_processes
    from mamoe.sampling.jobs import sample_folder
    from mamoe.sampling.pipeline import LayoutPipeline

    quiet_libraries()
    pipe = LayoutPipeline.from_pretrained(run, checkpoint=checkpoint, base=base)
    pipe.to(usable_device(device))
    pipe.set_progress_bar_config(disable=True)
    kept = stopped_with(f"finished pictures are kept in {out}; the same command goes on from there.")
    with kept, started_processes() as processes, progress("Drawing") as update:
        result = sample_folder(
            pipe,
            panoptic,
            out,
            prompts=prompts,
            instance_prompts=instance_prompts,
            conditions=conditions,
            size=size,
            recursive=recursive,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            processes=processes,
            progress=update,
            warn=lambda line: typer.echo(f"Warning: {line}", err=True),
        )
    if processes.first:
        new = f"{len(result.pictures)} pictures in {out}, {result.drawn} of them new"
        typer.echo(f"{new}; all of them: {result.contact_sheet}")


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(help="A run or one of its checkpoints, or a folder of pictures.")],
    against: Annotated[Path | None, typer.Option(help="Folder of real pictures; default: the run's split.")] = None,
    train: Annotated[Path | None, typer.Option(help="Folder of training pictures; default: the run's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data set the layouts are from; default: the run's.")] = None,
    base: BaseOption = None,
    taxonomy: Annotated[str | None, typer.Option(help="Of --data, where it does not name one.")] = None,
    scores: Annotated[str | None, typer.Option(help="Comma-separated; default: all but use.")] = None,
    segmenter: Annotated[
        list[str] | None, typer.Option(help="domain, or a folder or hub name; may be repeated. Default: domain.")
    ] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP, to compare instances with their prompts.")] = None,
    extractor: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME=PATH; may be repeated. Default: inception.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option(help="Base model, for its floor; a run has its own.")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="HEIGHT WIDTH all pictures are brought to.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: in the run, or eval/<folder>.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Features are kept here.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="At most so many pictures, spread evenly.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders of pictures hold folders.")] = False,
    split: Annotated[str, typer.Option(help="Of the run's data, or of --data.")] = "test",
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    modes: Annotated[str, typer.Option(help="How a run is drawn; comma-separated.")] = "cond,uncond,cfg",
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance_scale: Annotated[float, typer.Option(min=0.0, help="Of mode cfg.")] = 4.0,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of pictures and intervals.")] = 0,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
) -> None:
    """Score pictures against real ones, with intervals: distances of distributions, copying, layout, colours, use.

    Writes metrics.json, table.md and table.csv. Started again, it goes on where it stopped; torchrun shares the work.
    """
    from mamoe.build.evaluation import Asked, Drawing, evaluate_folder, evaluate_run
    from mamoe.checkpoints import is_run
    from mamoe.console import quiet_libraries

    quiet_libraries()
    if not is_run(target):
        named = {"--base": base is not None, "--checkpoint": checkpoint != "latest"}
        if given := [option for option, was_given in named.items() if was_given]:
            raise ConfigError(f"{target} is no run but a folder of pictures: leave {', '.join(given)} out.")
    asked = Asked(
        against=against,
        train=train,
        autoencoder=autoencoder,
        data=data,
        base=base,
        taxonomy=taxonomy,
        split=split,
        scores=None if scores is None else tuple(scores.split(",")),
        segmenters=tuple(segmenter or ("domain",)),
        clip=clip,
        extractors=tuple(extractor or ("inception",)),
        size=size,
        out=out,
        cache=cache,
        images=images,
        recursive=recursive,
        seed=seed,
        device=usable_device(device),
    )
    kept = stopped_with("finished pictures and features are kept; the same command goes on from there.")
    with kept, progress("Evaluating") as update:
        if is_run(target):
            drawing = Drawing(
                checkpoint=checkpoint,
                modes=tuple(modes.split(",")),
                steps=steps,
                guidance_scale=guidance_scale,
                batch_size=batch_size,
            )
            table, folder = evaluate_run(target, asked, drawing, update)
        else:
            table, folder = evaluate_folder(target, asked, update)
    if table is not None:
        typer.echo(f"{table.markdown()}\nWritten to {folder}.")


@app.command(context_settings=PASS_ON)
def benchmark(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every cell's configuration and list them.")] = False,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """Compare methods: mamoe benchmark benchmark=tiny methods=… seeds=… experiment=…

    Trains and scores every method with every seed at equal budget and writes report.html, .md, .csv and .json.
    Started again, it goes on where it stopped.
    """
    from mamoe.build.benchmark import run_benchmark

    raise typer.Exit(run_benchmark(context.args, config_dir or [], dry_run=dry_run, say=typer.echo))


@app.command(hidden=True)
def benchmark_cell(
    folder: Path,
    config_dir: Annotated[list[Path] | None, typer.Option()] = None,
) -> None:
    """Run one cell of a benchmark; `mamoe benchmark` starts it in a process of its own."""
    from mamoe.build.cell import run_cell
    from mamoe.console import quiet_libraries

    quiet_libraries()
    raise typer.Exit(run_cell(folder, config_dir or []))


@app.command()
def prepare(
    source_format: Source,
    source: Path,
    out: Path,
    taxonomy: Annotated[
        str | None, typer.Option(help="coco: name or YAML file of the classes; default: COCO's own 133.")
    ] = None,
    derive_taxonomy: Annotated[
        bool, typer.Option("--derive-taxonomy", help="coco: make a taxonomy of the JSON's categories.")
    ] = False,
) -> None:
    """Import a data set from its official format into the package's layout."""
    from mamoe.prepare.importers import importer_of, next_commands

    import_from = importer_of(source_format.value, taxonomy, derive_taxonomy)
    with progress("Importing") as update:
        summary = import_from(source, out, update)
    typer.echo(summary.text())
    typer.echo("Next: " + "\n      ".join(next_commands(summary)))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A data set in the package's layout.")],
    taxonomy: Annotated[str | None, typer.Option(help="Name or YAML file, where data.yaml does not say it.")] = None,
) -> None:
    """Open every file of a data set and list everything that is wrong with it."""
    from mamoe.errors import DatasetError
    from mamoe.prepare.check import check_folder
    from mamoe.taxonomy import Taxonomy

    with progress("Checking") as update:
        report = check_folder(folder, None if taxonomy is None else Taxonomy.load(taxonomy), update)
    typer.echo(report.text())
    if report.problems:
        raise DatasetError(f"{folder} has {len(report.problems)} problems, listed above.")


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    domain: Annotated[Drawn, typer.Option(help="Broad mix, or one town at dusk.")] = Drawn.DUSK_TOWN,
    train: Annotated[int, typer.Option(min=0)] = 256,
    val: Annotated[int, typer.Option(min=0)] = 32,
    test: Annotated[int, typer.Option(min=0)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    height: Annotated[int, typer.Option()] = 128,
    width: Annotated[int, typer.Option()] = 256,
) -> None:
    """Draw street scenes with panoptic maps, captions and instance prompts."""
    from mamoe.data.scenes import Domain, write_scenes
    from mamoe.staging import require_free

    require_free(out)
    counts = {"train": train, "val": val, "test": test}
    with progress("Drawing scenes") as update:
        write_scenes(
            out, domain=Domain(domain.value), counts=counts, seed=seed, height=height, width=width, progress=update
        )
    words = ["mamoe", "train", "data=scenes", f"data.root={out}", "experiment=demo"]
    typer.echo(f"{sum(counts.values())} scenes in {out}. Next: {shlex.join(words)}")


@app.command()
def new_base(
    data: Annotated[Path, typer.Argument(help="A folder made by `mamoe scenes --domain broad`.")],
    out: Annotated[Path, typer.Argument(help="Base model folder to make.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the autoencoder's training.")] = None,
) -> None:
    """Train an autoencoder on drawn scenes and write a base model around it, for experiment=tiny_base."""
    from mamoe.console import quiet_libraries
    from mamoe.newbase import make_new_base

    quiet_libraries()
    with progress("Training the autoencoder") as update:
        psnr = make_new_base(data, out, steps=steps, report=lambda step, of, loss: update(step, of, f"loss {loss:.4f}"))
    typer.echo(f"{out}: the autoencoder reaches {psnr:.1f} dB. Next: mamoe train experiment=tiny_base model.path={out}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    weights: Annotated[Weights, typer.Option(help="Number format.")] = Weights.FP16,
    format: Annotated[
        ExportFormat,
        typer.Option(help="A whole pipeline, or a run's LoRA alone as diffusers or kohya's readers take it."),
    ] = ExportFormat.PIPELINE,
) -> None:
    """Write a run as one folder: a LayoutPipeline, or a StableDiffusionPipeline if it knows no layout; or its LoRA."""
    from mamoe.console import quiet_libraries
    from mamoe.export import export_lora, export_run
    from mamoe.models.finetune.lorafile import LoraFile

    quiet_libraries()
    half = weights is Weights.FP16
    if format is ExportFormat.PIPELINE:
        export_run(run, out, checkpoint=checkpoint, base=base, half=half)
    else:
        if base is not None:
            raise ConfigError(f"--format {format.value} writes nothing of the base model: leave --base out.")
        out = export_lora(run, out, form=LoraFile(format.value), checkpoint=checkpoint, half=half)
    typer.echo(f"Written to {out}.")


def usable_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: it cannot be used.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and torch.cuda.device_count() > 1:  # a GPU for each process of this machine
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def main() -> None:
    """Run the command; a user's mistake ends in one clear message and the exit code of its kind."""
    wait_politely()
    try:
        with terminable():
            app()
    except MamoeError as error:
        _refuse(error)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Terminated:
        typer.echo("Stopped.", err=True)
        sys.exit(TRY_AGAIN)
    except Exception as error:  # for a full disk or memory, libraries raise errors of many kinds
        from mamoe.endings import ending_of

        ending = ending_of(error)
        if ending is None:
            raise
        _refuse(ending)


def _refuse(error: MamoeError) -> NoReturn:
    typer.echo(str(error) if isinstance(error, Stopped) else f"Error: {error}", err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
