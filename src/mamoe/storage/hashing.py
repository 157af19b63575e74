"""Names made of content. What they come out as is on users' disks: caches and results are found by them."""

from __future__ import annotations

import hashlib
from pathlib import Path


def short_hash(text: str, size: int, errors: str = "strict") -> str:
    """``2 * size`` hex digits (BLAKE2b) for a text; ``errors`` as in ``str.encode``."""
    return hashlib.blake2b(text.encode(errors=errors), digest_size=size).hexdigest()


def text_hash(text: str) -> str:
    """Sixteen hex digits (the first of the SHA-256) for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's contents; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_file_hash(path: Path) -> str:
    """32 hex digits (BLAKE2b) for a file's contents, quicker than the SHA-256; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
