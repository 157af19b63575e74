"""The command that begins a project. Thin, as the cli."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mamoe.console import note
from mamoe.errors import ConfigError


def init(
    images: Annotated[Path | None, typer.Option(help="Folder of your pictures.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Folder of their maps, or a COCO JSON of objects.")] = None,
    classes: Annotated[str | None, typer.Option(help="Taxonomy by name, or a YAML file with the classes.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model: tiny, tiny_dit, sd15, sd21, sdxl, or another of `mamoe presets model`."),
    ] = None,
    memory: Annotated[float | None, typer.Option(min=0, help="GB of the GPU; 0: none. Default: what is here.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the settings; default: that of the pictures' folder.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: what suits the base.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
) -> None:
    """Begin with pictures and maps of your own: write settings into configs/, and say which commands come next.

    Asks for what is not given. Nothing is overwritten.

    Example: mamoe init --images photos --maps maps --classes classes.yaml --base tiny --yes
    """
    from mamoe.commands.init import TINY, Wishes, bases, name_for, plan, write_plan
    from mamoe.machine.memory import gpu_gib

    asks = not yes and sys.stdin.isatty()
    if not asks and (missing := [f"--{key}" for key, value in (("images", images), ("maps", maps)) if value is None]):
        raise ConfigError(f"Nothing is asked here, so give {' and '.join(missing)}; see mamoe init --help.")
    images = images or typer.prompt("Folder of your pictures", value_proc=_there)
    maps = maps or typer.prompt("Folder of their maps, or a COCO JSON", value_proc=_there)
    here = round(gpu_gib() or 0, 1) if memory is None else memory
    if asks:
        if classes is None:
            classes = typer.prompt("Classes: a taxonomy's name, a YAML file, or nothing", default="") or None
        base = base or typer.prompt(f"Base model ({', '.join(bases())})", default=TINY, value_proc=_one_of(bases()))
        here = typer.prompt("Memory of the GPU in GB, 0 for none", default=here, type=float) if memory is None else here
    name = name or name_for(images if images.name not in ("images", "train") else images.resolve().parent)
    if asks:
        name = str(typer.prompt("Name", default=name))
    found = plan(
        Wishes(name=name, images=images, maps=maps, classes=classes, base=base or TINY, memory=here, steps=steps)
    )
    write_plan(found)
    for line in found.notes:
        note(line)
    for path in found.files:
        typer.echo(f"Written: {path}")
    for command in found.commands:
        typer.echo(f"Next: {command}")


def _there(answer: str) -> Path:
    """A path that is there; of any other the question is asked again."""
    path = Path(answer).expanduser()
    if not path.exists():
        raise typer.BadParameter(f"there is no {path}.")
    return path


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    """An answer among ``known``; after any other they are named and the question is asked again."""

    def checked(answer: str) -> str:
        if answer not in known:
            raise typer.BadParameter(f"there is no {answer}; there are {', '.join(known)}.")
        return answer

    return checked
