"""``mamoe prepare``: others' data become data sets of this package's layout. Thin, as the cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mamoe.console import progress

prepare = typer.Typer(no_args_is_help=True, help="Make data sets: import others' formats, write captions.")


def _short(name: str) -> None:
    def command(
        source: Path,
        out: Path,
        taxonomy: Annotated[
            str | None, typer.Option(help="coco: name or YAML file of the classes; default: COCO's own 133.")
        ] = None,
        derive_taxonomy: Annotated[
            bool, typer.Option("--derive-taxonomy", help="coco: make a taxonomy of the JSON's categories.")
        ] = False,
    ) -> None:
        """Import a data set from its official format into the package's layout.

        Example: mamoe prepare cityscapes /path/to/cityscapes data/cityscapes
        """
        from mamoe.prepare.importers import importer_of, next_commands

        import_from = importer_of(name, taxonomy, derive_taxonomy)
        with progress("Importing") as update:
            summary = import_from(source, out, update)
        typer.echo(summary.text())
        typer.echo("Next: " + "\n      ".join(next_commands(summary)))

    prepare.command(name=name)(command)


for short in ("cityscapes", "camvid", "coco"):
    _short(short)
