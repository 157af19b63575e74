"""The words of ``mamoe app``. Thin, as the cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mamoe.commands.sample import BaseOption, Precision
from mamoe.machine.stopping import stopped_with


def app(
    run: Annotated[Path, typer.Argument(help="A run, one of its checkpoints, or a saved pipeline.")],
    data: Annotated[
        Path | None, typer.Option(help="Data set whose maps can be begun with; default: the run's own.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token, which is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a step.")] = "latest",
    base: BaseOption = None,
    device: Annotated[str | None, typer.Option(help="For example cuda or cpu; default: what there is.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of the weights; default: bf16 on a GPU that has it, else fp32.")
    ] = None,
) -> None:
    """Paint layouts in the browser and draw them: serves a page until Ctrl-C.

    With another host than 127.0.0.1 the address holds a token: MAMOE_APP_TOKEN from the environment, or a new one.

    Example: mamoe app runs/mamoe/latest
    """
    from mamoe.commands.app.serve import Place, serve

    with stopped_with("open pages keep what was painted."):
        serve(
            run,
            Place(host=host, port=port),
            data=data,
            checkpoint=checkpoint,
            base=base,
            device=device,
            precision=precision,
            say=lambda address: typer.echo(f"Paint at {address} (Ctrl-C ends it)"),
        )
