"""The commands, with a patience fit for tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from fake_openai import FakeOpenAI
from mamoe.commands.captioning.story import Asked, write_captions
from mamoe.prepare.captioning.batches import BatchSizes
from mamoe.prepare.captioning.choices import Kind, Via
from mamoe.prepare.captioning.live import Patience

QUICK = Patience(attempts=4, first=0.01, longest=0.05)
SIZES = BatchSizes(poll=0.01)


def caption(data: Path, fake: FakeOpenAI | None, kind: Kind = Kind.PICTURES, **words: Any) -> list[str]:
    """Run the command in this process; returns what it said on standard output."""
    usual: dict[str, Any] = {
        "template": "picture" if kind is Kind.PICTURES else "object",
        "model": "tiny-vl",
        "patience": QUICK,
        "sizes": SIZES,
        "min_pixels": 60,
        "timeout": 30.0,
    }
    if fake is not None:
        usual["base_url"] = fake.url
    said: list[str] = []
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        write_captions(Asked(kind=kind, data=data, **{**usual, **words}), said.append)
    return said


def batch(data: Path, fake: FakeOpenAI, kind: Kind = Kind.PICTURES, **words: Any) -> list[str]:
    return caption(data, fake, kind, via=Via.BATCH, **words)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


Said = Callable[[str], None]
