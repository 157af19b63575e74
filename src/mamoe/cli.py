"""The ``mamoe`` command. Thin: parse, build, call. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mamoe import __version__
from mamoe.commands.about import env, presets
from mamoe.commands.app.options import app as paint
from mamoe.commands.captioning.options import captions, instance_captions
from mamoe.commands.demo.models import DemoModel
from mamoe.commands.handing_on import export, push
from mamoe.commands.material import check, new_base, scenes
from mamoe.commands.prepare import prepare
from mamoe.commands.sample import BaseOption, sample
from mamoe.commands.starting import init
from mamoe.commands.synthesize import synthesize
from mamoe.config.shipped import group_names
from mamoe.console import progress, visible_lines
from mamoe.errors import ConfigError, MamoeError
from mamoe.machine.garbage import look_rarely
from mamoe.machine.stopping import TRY_AGAIN, Stopped, Terminated, stopped_with, terminable
from mamoe.machine.threads import wait_politely
from mamoe.vocabulary.drawing import DRAWING, Drawing, Mode, modes_of

app = typer.Typer(
    name="mamoe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune latent diffusion models on a narrow domain, steered by panoptic maps and per-instance prompts.",
)

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

# The backslashes keep the brackets from being read as markup.
TRAIN_HELP = rf"""Fine-tune a model: mamoe train data=… experiment=… \[any.key=value] \[resume=RUN]

Composes the Hydra groups {", ".join(group_names()[:-1])} and {group_names()[-1]}; a configs/ folder in the working directory is searched too.

Example: mamoe train experiment=demo data.root=demo/data trainer.max_steps=200
"""  # noqa: E501 - a line end stays one in the help


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mamoe {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """What can be asked before any command; it is answered by then."""


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for data, run and page.", show_default="demo, or demo_tiny_dit")
    ] = None,
    model: Annotated[
        DemoModel, typer.Option(help="Base model to fine-tune: a UNet, or a transformer of fewer weights.")
    ] = DemoModel.TINY,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, to make it shorter or longer.")] = None,
) -> None:
    """Draw a small town, fine-tune a tiny base model on it, and leave a page with pictures and scores.

    Started again after Ctrl-C, it goes on where it stopped.

    Example: mamoe demo --out town
    """
    from mamoe.commands.demo.run import run_demo
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    folder = out or Path(model.folder)
    with stopped_with(f"what is finished is kept in {folder}; the same command goes on from there."):
        code = run_demo(folder, model=model, steps=steps)
    raise typer.Exit(code)


@app.command(context_settings=PASS_ON, help=TRAIN_HELP)
def train(
    context: typer.Context,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="Sweep over comma-separated values.")] = False,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """Fine-tune a model; its help is ``TRAIN_HELP``."""
    from mamoe.commands.train import launch, launch_sweep

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
    r"""Encode prompts and pictures ahead of a training: mamoe cache data=… experiment=… \[any.key=value]

    Takes what `mamoe train` takes; a training with the same words finds everything encoded.

    Example: mamoe cache experiment=mamoe data.root=data/cityscapes
    """
    from mamoe.commands.train import launch_cache

    with stopped_with("what was encoded is kept; the same command goes on from there."):
        lines = launch_cache(context.args, config_dir or [])
    for line in lines:
        typer.echo(line)


app.command()(sample)
app.command()(synthesize)


@app.command()
def evaluate(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="A run or a checkpoint, a folder of pictures, or a synthetic data set.")
    ],
    against: Annotated[Path | None, typer.Option(help="Folder of real pictures; default: the run's split.")] = None,
    train: Annotated[Path | None, typer.Option(help="Folder of training pictures; default: the run's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data set the layouts are from; default: the run's.")] = None,
    base: BaseOption = None,
    taxonomy: Annotated[str | None, typer.Option(help="Of --data, where it does not name one.")] = None,
    instance_prompts: Annotated[
        Path | None, typer.Option(help="JSON the pictures were drawn with; default: that of --data.")
    ] = None,
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
    modes: Annotated[str, typer.Option(help="How a run is drawn; comma-separated.")] = ",".join(Mode),
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = DRAWING.steps,
    guidance_scale: Annotated[float, typer.Option(min=0.0, help="Of mode cfg.")] = DRAWING.guidance_scale,
    batch_size: Annotated[int, typer.Option(min=1)] = DRAWING.batch_size,
    seed: Annotated[int, typer.Option(help="Of pictures and intervals.")] = 0,
    seeds: Annotated[int, typer.Option(min=2, help="Of a data set: networks trained on each kind of pictures.")] = 5,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
) -> None:
    """Score pictures against real ones, with intervals: distances of distributions, copying, layout, colours, use.

    Writes metrics.json, table.md and table.csv. Started again, it goes on where it stopped; torchrun shares the work.

    Example: mamoe evaluate runs/mamoe/latest --split val
    """
    from mamoe.commands.evaluate import Asked, evaluate_folder, evaluate_run
    from mamoe.commands.evaluate_set import evaluate_set, is_data_set
    from mamoe.machine.devices import usable_device
    from mamoe.machine.libraries import quiet_libraries
    from mamoe.runs.lookup import is_run

    quiet_libraries()
    of_runs = ("base", "checkpoint", "modes", "steps", "guidance_scale", "batch_size")
    if not is_run(target) and (options := _given(context, of_runs)):
        raise ConfigError(f"{target} is no run but a folder of pictures: leave {options} out.")
    of_pictures = ("against", "train", "instance_prompts", "segmenter", "clip", "extractor", "autoencoder", "cache")
    if is_data_set(target) and (options := _given(context, of_pictures)):
        raise ConfigError(f"{target} is a data set, of which only the use is measured: leave {options} out.")
    if not is_data_set(target) and (options := _given(context, ("seeds",))):
        raise ConfigError(f"{target} is no data set: leave {options} out; --seed is that of pictures and intervals.")
    asked = Asked(
        against=against,
        train=train,
        autoencoder=autoencoder,
        data=data,
        base=base,
        checkpoint=checkpoint,
        modes=modes_of(modes.split(",")),
        taxonomy=taxonomy,
        instance_prompts=instance_prompts,
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
        if is_data_set(target):
            table, folder = evaluate_set(target, asked, seeds, update)
        elif is_run(target):
            drawing = Drawing(steps=steps, guidance_scale=guidance_scale, batch_size=batch_size, seed=seed)
            table, folder = evaluate_run(target, asked, drawing, update)
        else:
            table, folder = evaluate_folder(target, asked, update)
    if table is not None:
        typer.echo(f"{table.markdown()}\nWritten to {folder}.")


def _given(context: typer.Context, names: tuple[str, ...]) -> str:
    """Those of the options that the user gave, as they are written."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    return ", ".join(f"--{name.replace('_', '-')}" for name in given)


@app.command(context_settings=PASS_ON)
def benchmark(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every cell's configuration and list them.")] = False,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """Compare methods: mamoe benchmark benchmark=tiny methods=… seeds=… experiment=…

    Trains and scores every method with every seed at equal budget and writes report.html, .md, .csv and .json.
    Started again, it goes on where it stopped.

    Example: mamoe benchmark benchmark=tiny seeds=0,1,2 --dry-run
    """
    from mamoe.commands.benchmark.run import run_benchmark

    raise typer.Exit(run_benchmark(context.args, config_dir or [], dry_run=dry_run, say=typer.echo))


@app.command(hidden=True)
def benchmark_cell(
    folder: Path,
    config_dir: Annotated[list[Path] | None, typer.Option()] = None,
) -> None:
    """Run one cell of a benchmark; `mamoe benchmark` starts it in a process of its own."""
    from mamoe.commands.benchmark.cell import run_cell
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    raise typer.Exit(run_cell(folder, config_dir or []))


prepare.command("captions")(captions)
prepare.command("instance-captions")(instance_captions)
app.add_typer(prepare, name="prepare")
app.command("app")(paint)
for command in (init, check, scenes, new_base, export, push, presets, env):
    app.command()(command)


def main() -> None:
    """Run the command; a user's mistake ends in one clear message and the exit code of its kind."""
    wait_politely()
    look_rarely()
    try:
        with terminable():
            app()
    except MamoeError as error:
        _refuse(error)
    except SystemExit as ending:
        if isinstance(getattr(ending.__context__, "__cause__", None), KeyboardInterrupt):  # typer ends without a word
            typer.echo("Interrupted.", err=True)
        raise
    except KeyboardInterrupt:  # before typer begins, or after
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Terminated:
        typer.echo("Stopped.", err=True)
        sys.exit(TRY_AGAIN)
    except Exception as error:  # for a full disk or memory, libraries raise errors of many kinds
        from mamoe.machine.failures import ending_of

        ending = ending_of(error)
        if ending is None:
            raise
        _refuse(ending)


def _refuse(error: MamoeError) -> NoReturn:
    text = visible_lines(str(error))
    typer.echo(text if isinstance(error, Stopped) else f"Error: {text}", err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
