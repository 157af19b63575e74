"""The words of ``mamoe prepare captions`` and ``mamoe prepare instance-captions``. Thin, as the cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mamoe.commands.options import with_options
from mamoe.machine.stopping import stopped_with
from mamoe.prepare.captioning.choices import OPENAI, Kind, Mode, Only, Via

Data = Annotated[Path, typer.Argument(help="A data set in the package's layout.")]
Model = Annotated[str, typer.Option(help="Name at the server; with --via local a folder or hub id.")]
ViaOption = Annotated[Via, typer.Option(help="A server, live or by its Batch API; or a model on this machine.")]
BaseUrl = Annotated[str, typer.Option(help="Of a server that speaks OpenAI's HTTP.")]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable with the key; default: OPENAI_API_KEY.")]
Split = Annotated[list[str] | None, typer.Option(help="May be repeated; default: all.")]
OnlyOption = Annotated[Only, typer.Option(help="Ask for what has no text, whose answer did not serve, or all.")]
ModeOption = Annotated[Mode | None, typer.Option(help="What becomes of texts that are there.")]
PreviewCount = Annotated[int | None, typer.Option(min=1, help="Ask for so many, make a page of them, and stop.")]
PriceIn = Annotated[float | None, typer.Option(help="Price of a million tokens the model reads.")]
PriceOut = Annotated[float | None, typer.Option(help="Price of a million tokens the model writes.")]
MaxCost = Annotated[float | None, typer.Option(help="Never spend more, sessions before included.")]
Base = Annotated[str | None, typer.Option(help="Base model that is to be trained: answers must fit its text encoder.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Requests in flight; a local model takes one.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")]
Device = Annotated[str | None, typer.Option(help="For --via local, for example cuda; default: what there is.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it costs; ask nothing.")]


def asking(
    via: ViaOption = Via.LIVE,
    base_url: BaseUrl = OPENAI,
    key_env: KeyEnv = None,
    split: Split = None,
    only: OnlyOption = Only.MISSING,
    mode: ModeOption = None,
    preview: PreviewCount = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    max_cost: MaxCost = None,
    base: Base = None,
    workers: Workers = 8,
    timeout: Timeout = 120.0,
    device: Device = None,
    dry_run: DryRun = False,
) -> dict[str, Any]:
    """How a model is asked, in the words of both commands."""
    return locals()


@with_options(asking)
def captions(
    data: Data,
    model: Model,
    template: Annotated[str, typer.Option(help="What the model is told: picture, or a YAML file.")] = "picture",
    *,
    asked: dict[str, Any],
) -> None:
    """Have a vision-language model caption the pictures of a data set.

    Writes the prompts CSV of every split. Started again, it goes on where it stopped; torchrun and SLURM arrays share
    the work.

    Example: mamoe prepare captions data/streets --model gpt-4o-mini --preview 5
    """
    _write(Kind.PICTURES, data=data, model=model, template=template, **asked)


@with_options(asking)
def instance_captions(
    data: Data,
    model: Model,
    template: Annotated[str, typer.Option(help="What the model is told: object, or a YAML file.")] = "object",
    classes: Annotated[str | None, typer.Option(help="Comma-separated names; default: all things.")] = None,
    min_pixels: Annotated[int, typer.Option(min=1, help="Objects with fewer pixels are left out.")] = 1024,
    margin: Annotated[float, typer.Option(min=0.0, max=2.0, help="Around an object's box, as a share of it.")] = 0.1,
    taxonomy: Annotated[str | None, typer.Option(help="Name or YAML file, where data.yaml does not say it.")] = None,
    *,
    asked: dict[str, Any],
) -> None:
    """Have a vision-language model describe the objects of a data set, each cut out and put on black.

    Writes the instance prompts JSON of every split. Started again, it goes on where it stopped; torchrun and SLURM
    arrays share the work.

    Example: mamoe prepare instance-captions data/streets --model gpt-4o-mini --classes car,person --preview 5
    """
    objects = {"classes": classes, "min_pixels": min_pixels, "margin": margin, "taxonomy": taxonomy}
    _write(Kind.OBJECTS, data=data, model=model, template=template, **objects, **asked)


def _write(kind: Kind, **words: Any) -> None:
    from mamoe.commands.captioning.story import Asked, write_captions

    with stopped_with("what was answered is kept, batches go on at the server; the same command goes on from there."):
        write_captions(Asked(kind=kind, **words), typer.echo)
