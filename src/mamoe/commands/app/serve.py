"""The page from the command line: load the model, find the layouts, listen until told to stop.

The flow:  Model. Layouts. Address. Serve.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from mamoe.commands.app.guard import is_loopback
from mamoe.commands.app.layouts import layouts_of
from mamoe.commands.app.server import make_app
from mamoe.commands.app.studio import Studio, require_layout, usual_size
from mamoe.errors import ConfigError
from mamoe.machine.devices import usable_device
from mamoe.machine.libraries import quiet_libraries
from mamoe.machine.precision import drawing_format
from mamoe.runs.lookup import is_run
from mamoe.sampling.pipeline import LayoutPipeline

TOKEN = "MAMOE_APP_TOKEN"  # environment variable


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the page is served."""

    host: str
    port: int  # 0: a free one


def serve(
    target: Path,
    place: Place,
    *,
    data: Path | None,
    checkpoint: str,
    base: str | None,
    device: str | None,
    precision: str | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    Raises:
        MamoeError: the model or the data cannot be used, or the address is taken.
    """
    quiet_libraries()
    with _listening(place) as listener:
        studio = load_studio(target, data=data, checkpoint=checkpoint, base=base, device=device, precision=precision)
        token = None if is_loopback(place.host) else os.environ.get(TOKEN) or secrets.token_urlsafe(24)
        say(address_of(place.host, listener.getsockname()[1], token))
        # Ending, it waits a moment for answers under way; a drawing ends at its next step.
        config = uvicorn.Config(make_app(studio, token), log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def load_studio(
    target: Path, *, data: Path | None, checkpoint: str, base: str | None, device: str | None, precision: str | None
) -> Studio:
    """The model of a run or pipeline, on its device, with the layouts to begin with.

    Raises:
        MamoeError: it cannot be loaded, or follows no layout.
    """
    device = usable_device(device)
    pipe = LayoutPipeline.from_pretrained(
        target, checkpoint=checkpoint, base=base, torch_dtype=drawing_format(device, precision)
    )
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    name = _name_of(target)
    layouts = layouts_of(target, checkpoint, data, require_layout(pipe, name).taxonomy, usual_size(pipe))
    return Studio(pipe, layouts, name)


def address_of(host: str, port: int, token: str | None) -> str:
    """What to open in a browser. The token stands behind #, which no browser sends and no server logs."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + ("" if token is None else f"#token={token}")


def _name_of(target: Path) -> str:
    """What the page calls a model: the last parts of its path, not where it lies on this machine."""
    real = target.resolve()
    return "/".join(real.parts[-2:]) if is_run(target) else real.name


def _listening(place: Place) -> socket.socket:
    """A socket at the address, taken before the model is loaded."""
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((place.host, place.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"Nothing can be served at {place.host}, port {place.port}: {error.strerror}. Choose another with --port "
            "(0 takes a free one) or --host."
        ) from None
