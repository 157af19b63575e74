"""What a data set is known by again, wherever it lies: names, sizes and prompts of its pictures; no file is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mamoe.data.folder.split import SampleFiles
from mamoe.storage.hashing import short_hash

DIGITS = 8  # of one sample


def fingerprint_of_samples(samples: Sequence[SampleFiles]) -> dict[str, str]:
    """``keys``: a hash of the names in their order; ``samples``: eight hex digits for each, end to end."""
    keys = short_hash(json.dumps([sample.key for sample in samples]), 8)
    return {"keys": keys, "samples": "".join(_of_sample(sample) for sample in samples)}


def changed_samples(was: str, now: str) -> list[int]:
    """The places at which two ``samples`` of one length differ."""
    return [i // DIGITS for i in range(0, len(now), DIGITS) if was[i : i + DIGITS] != now[i : i + DIGITS]]


def _of_sample(sample: SampleFiles) -> str:
    sizes = [_bytes(path) for path in (sample.image, sample.panoptic, sample.condition)]
    own = sorted((segment, text) for segment, text in sample.prompts.by_segment.items())
    return short_hash(json.dumps([sizes, sample.prompts.global_prompt, own]), DIGITS // 2)


def _bytes(path: Path | None) -> int | None:
    return None if path is None else path.stat().st_size
