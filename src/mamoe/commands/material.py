"""The commands that look at and draw material, and make a new base model. Thin, as the cli."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mamoe.commands.sample import Precision
from mamoe.console import progress
from mamoe.errors import ConfigError, DatasetError


class Drawn(StrEnum):
    """Kinds of drawn scenes."""

    BROAD = "broad"
    CLOSE_UPS = "close_ups"
    DUSK_TOWN = "dusk_town"


def check(
    folder: Annotated[
        Path | None, typer.Argument(help="A data set in the package's layout; without one --model itself is looked at.")
    ] = None,
    taxonomy: Annotated[str | None, typer.Option(help="Name or YAML file, where data.yaml does not say it.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model, or a folder with CLIP's vocabulary: counts the prompts' tokens. Without a data set: "
            "folder, hub name, file, run or export whose network is tested: does a region's text stay in the region?"
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Whose checkpoints are reckoned, with a --model on this disk; default: full.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and check.html, or leaks.json.")] = None,
    fix: Annotated[Path | None, typer.Option(help="New folder for a copy with what can be mended safely.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Of --model alone: latent cells a side; default: 16.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of --model alone: its weights; default: fp32. bf16 needs half the memory.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of --model alone; default: a GPU if there is one.")] = None,
) -> None:
    """Open every file of a data set, list everything that is wrong or odd; --fix OUT writes a mended copy.

    With --model alone: convert its network, and look whether a region's prompt changes what is inside the region alone.

    Example: mamoe check data/cityscapes --out check, mamoe check --model models/sd21
    """
    of_data = {"--taxonomy": taxonomy, "--method": method, "--fix": fix}
    of_model = {"--size": size, "--precision": precision, "--device": device}
    _check_sense(of_data if folder is None else of_model, folder, model)
    if folder is None:
        assert model is not None, "it was just looked at"
        _check_model(model, cells=size or 16, precision=(precision or Precision.FP32).value, device=device, out=out)
        return
    from mamoe.commands.check.run import check_data_set
    from mamoe.vocabulary.taxonomy import Taxonomy

    base = None
    if model is not None:
        from mamoe.commands.check.model import model_of

        base = model_of(model, method or "full")
    known = None if taxonomy is None else Taxonomy.load(taxonomy)
    text, problems = check_data_set(folder, progress, taxonomy=known, model=base, out=out, fix=fix)
    typer.echo(text)
    if problems:
        raise DatasetError(f"{folder if fix is None else fix} has {problems} problems, listed above.")


def _check_sense(others: dict[str, object], folder: Path | None, model: str | None) -> None:
    """Refuse a call that asks for nothing, or for what it would leave out: ``others`` belong to the other check."""
    if folder is None and model is None:
        raise ConfigError("mamoe check wants a data set's FOLDER, or --model alone, whose network is tested then.")
    if given := [name for name, value in others.items() if value is not None]:
        whose = "a data set, and there is no FOLDER" if folder is None else "--model alone, and there is a FOLDER"
        raise ConfigError(f"mamoe check: {', '.join(given)} belong to the check of {whose}.")


def _check_model(model: str, *, cells: int, precision: str, device: str | None, out: Path | None) -> None:
    from mamoe.commands.check.network import check_network
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    text, problems = check_network(model, cells=cells, precision=precision, device=device, out=out)
    typer.echo(text)
    if problems:
        raise ConfigError(f"Layouts do not steer {model} as they should, see above.")


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
    """Draw street scenes with panoptic maps, captions and instance prompts.

    Example: mamoe scenes town --train 64
    """
    from mamoe.machine.pool import usable_cores
    from mamoe.scenes import Domain, write_scenes
    from mamoe.storage.staging import require_free

    require_free(out)
    counts = {"train": train, "val": val, "test": test}
    if not any(counts.values()):
        raise ConfigError("--train, --val and --test are all 0: there is nothing to draw.")
    with progress("Drawing scenes") as update:
        write_scenes(
            out,
            domain=Domain(domain.value),
            counts=counts,
            seed=seed,
            height=height,
            width=width,
            workers=usable_cores(),
            progress=update,
        )
    words = ["mamoe", "train", "data=scenes", f"data.root={out}", "experiment=demo"]
    typer.echo(f"{sum(counts.values())} scenes in {out}. Next: {shlex.join(words)}")


def new_base(
    data: Annotated[Path, typer.Argument(help="A folder made by `mamoe scenes --domain broad`.")],
    out: Annotated[Path, typer.Argument(help="Base model folder to make.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the autoencoder's training.")] = None,
) -> None:
    """Train an autoencoder on drawn scenes and write a base model around it, for experiment=tiny_base.

    Example: mamoe new-base broad my_base
    """
    from mamoe.commands.new_base import make_new_base
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    with progress("Training the autoencoder") as update:
        psnr = make_new_base(data, out, steps=steps, report=lambda step, of, loss: update(step, of, f"loss {loss:.4f}"))
    typer.echo(f"{out}: the autoencoder reaches {psnr:.1f} dB. Next: mamoe train experiment=tiny_base model.path={out}")
