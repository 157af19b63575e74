"""The page's server: one static page, and what it asks for as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mamoe.commands.app.guard import Guard, TooLarge
from mamoe.commands.app.messages import MOST_SIDE, about, drawn_sent, layout_sent, map_of, sizes_sent, wish_of
from mamoe.commands.app.sizes import sizes_of
from mamoe.commands.app.studio import Cancelled, Studio, Wish
from mamoe.errors import ConfigError, DatasetError, MamoeError
from mamoe.machine.failures import ending_of

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
_MOST_NAMES = 1000  # of the maps of a split, for the page's list
_LOOK = 0.2  # seconds between two looks whether the page is still there


def make_app(studio: Studio, token: str | None = None) -> Starlette:
    """The server of a studio; with a token it answers requests of data that carry it, under any name."""

    async def tell(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(about, studio))

    async def names(request: Request) -> Response:
        split, like = request.path_params["split"], request.query_params.get("like", "").lower()
        known = studio.layouts.names.get(split, ())
        return JSONResponse({"names": [name for name in known if like in name.lower()][:_MOST_NAMES]})

    async def opened(request: Request) -> Response:
        panoptic, prompts = await run_in_threadpool(
            studio.layouts.opened, request.path_params["split"], request.path_params["name"]
        )
        return JSONResponse(layout_sent(panoptic, prompts))

    async def template(request: Request) -> Response:
        size = _size_in(request, studio.pipe.side_multiple)
        panoptic = await run_in_threadpool(studio.layouts.template, size, studio.settings.taxonomy)
        return JSONResponse(layout_sent(panoptic))

    async def read(request: Request) -> Response:
        panoptic = await run_in_threadpool(map_of, await request.body())
        if problems := studio.settings.taxonomy.check(panoptic):
            raise DatasetError(f"This map is of other classes: {'; '.join(problems[:5])}.")
        return JSONResponse(layout_sent(panoptic))

    async def sizes(request: Request) -> Response:
        panoptic = await run_in_threadpool(map_of, await request.body())
        found = await run_in_threadpool(sizes_of, panoptic, studio.settings, studio.pipe.vae_scale_factor)
        return JSONResponse(sizes_sent(found))

    async def draw(request: Request) -> Response:
        wish = await run_in_threadpool(wish_of, await request.body())
        return StreamingResponse(_lines(studio, wish, request), media_type="application/x-ndjson")

    return Starlette(
        routes=[
            Route("/api/about", tell),
            Route("/api/maps/{split}", names),
            Route("/api/maps/{split}/{name:path}", opened),
            Route("/api/template", template),
            Route("/api/read", read, methods=["POST"]),
            Route("/api/sizes", sizes, methods=["POST"]),
            Route("/api/draw", draw, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={
            MamoeError: _refused,
            HTTPException: _missing,
            Exception: _failed,
        },
    )


async def _lines(studio: Studio, wish: Wish, request: Request) -> AsyncIterator[str]:
    """A line of JSON for every step, then the picture or what was wrong. Where nobody listens, drawing ends."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
    gone, started = threading.Event(), time.perf_counter()

    def tell(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def work() -> None:
        try:
            drawn = studio.draw(
                wish, lambda done: tell({"step": done, "of": wish.drawing.steps}), lambda: not gone.is_set()
            )
            tell(drawn_sent(drawn, time.perf_counter() - started))
        except Cancelled:
            tell({"error": "Cancelled."})
        except MamoeError as error:
            tell({"error": str(error)})
        except Exception as error:  # libraries raise errors of many kinds for a full memory
            tell({"error": _words_for(error)})

    yield json.dumps({"waiting": True}) + "\n"
    worker = loop.run_in_executor(None, work)
    try:
        while not worker.done() or not events.empty():
            try:
                event = await asyncio.wait_for(events.get(), _LOOK)
            except TimeoutError:
                if await request.is_disconnected():
                    return
                continue
            yield json.dumps(event) + "\n"
    finally:
        gone.set()


def _size_in(request: Request, multiple: int) -> tuple[int, int]:
    try:
        height, width = (int(request.query_params[name]) for name in ("height", "width"))
    except (KeyError, ValueError):
        raise ConfigError("height and width must be whole numbers of pixels.") from None
    if not all(0 < side <= MOST_SIDE and side % multiple == 0 for side in (height, width)):
        raise ConfigError(
            f"height and width must be multiples of {multiple} up to {MOST_SIDE}, got {height} x {width}."
        )
    return height, width


def _words_for(error: Exception) -> str:
    ending = ending_of(error)
    if ending is not None:
        return str(ending)
    log.error("The page's server failed at a request.", exc_info=error)
    return f"Something went wrong here that is no fault of yours ({type(error).__name__}); the terminal says more."


async def _refused(request: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, TooLarge) else 422
    return JSONResponse({"error": str(error)}, status_code=status)


async def _missing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"error": f"There is nothing at {request.url.path!r:.120} to {request.method}."}, status)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": _words_for(error)}, status_code=500)
