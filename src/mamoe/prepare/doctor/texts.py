"""What is odd about prompts that can be read: too long, all the same, garbled, or for part of the things only."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import scan_prompts_csv
from mamoe.data.folder.split import SplitFiles
from mamoe.errors import DatasetError
from mamoe.prepare.doctor.findings import Finding, Severity

LIMIT = 77  # tokens of CLIP's text encoders, begin and end included
_MANY, _SHARE = 4, 0.5  # pictures with one prompt, and their share of the split, from which on it tells nothing
# UTF-8 that was read as Latin-1 or Windows-1252 shows a capital A with tilde or circumflex before another sign.
_NO_VALUE = ("nan", "none", "null", "n/a", "<na>", "undefined")
_GARBLED = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\ufffd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt and where it stands."""

    text: str
    where: str  # the place in words
    file: Path
    line: int | None = None
    segment: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCounter:
    """Counts what a text encoder reads."""

    count: Callable[[str], int]  # begin and end included
    limit: int
    name: str  # of the model it belongs to


def text_findings(files: SplitFiles, csv_file: Path | None, counter: TokenCounter | None) -> list[Finding]:
    """What is odd about the prompts of a split.

    Args:
        files: the split.
        csv_file: where the global prompts come from; None: there are none.
        counter: of the base model; None: only prompts that are too long for every tokenizer are found, for a word is
            a token at least.
    """
    texts = [*_global_prompts(files, csv_file), *_instance_prompts(files)]
    found = [_finding(Severity.NOTE, "byte order mark", text, file) for file, text in _marks(files, csv_file)]
    for prompt in texts:
        found += [
            Finding(
                severity=Severity.WARNING,
                kind=kind,
                text=f"{prompt.where}: {text}",
                file=prompt.file,
                line=prompt.line,
                segment=prompt.segment,
            )
            for kind, text in (*_length(prompt.text, counter), *_oddities(prompt.text))
        ]
    return [*found, *_repeated(files, csv_file)]


def things_without_prompt(file: Path, lacking: Iterable[tuple[Path, list[int]]]) -> list[Finding]:
    """One finding for each map with segments of things that the JSON does not name, where it names others."""
    return [
        Finding(
            severity=Severity.WARNING,
            kind="thing without prompt",
            text=f"{path}: segments {some(list(map(str, segments)))} are things without a prompt in {file}; they get "
            "the prompt of their class",
            file=path,
            segment=segments[0],
        )
        for path, segments in lacking
    ]


def _global_prompts(files: SplitFiles, csv_file: Path | None) -> Iterator[Prompt]:
    if csv_file is None:
        return
    try:
        rows, _ = scan_prompts_csv(csv_file)
    except DatasetError:  # which is said elsewhere
        return
    for name, row in rows.items():
        yield Prompt(text=row.prompt, where=f"{csv_file}, line {row.line}, {name!r}", file=csv_file, line=row.line)


def _instance_prompts(files: SplitFiles) -> Iterator[Prompt]:
    if (file := files.instance_prompts) is None:
        return
    for sample in files.samples:
        for segment, text in sample.prompts.by_segment.items():
            yield Prompt(text=text, where=f"{file}, key {sample.key!r} -> '{segment}'", file=file, segment=segment)


def _length(text: str, counter: TokenCounter | None) -> Iterator[tuple[str, str]]:
    if counter is None:
        if (words := len(text.split())) > LIMIT - 2:
            yield (
                "prompt too long",
                f"{words} words are over the {LIMIT - 2} tokens that CLIP reads; the end is cut off",
            )
    elif (tokens := counter.count(text)) > counter.limit:
        over = tokens - counter.limit
        yield (
            "prompt too long",
            f"{tokens} tokens, {over} over the {counter.limit} that {counter.name} reads; the end is cut off",
        )


def _oddities(text: str) -> Iterator[tuple[str, str]]:
    if garbled := _GARBLED.search(text):
        yield (
            "garbled text",
            f"{garbled[0]!r} looks like UTF-8 that was read as another encoding; write the file again from its source",
        )
    controls = sorted({char for char in text if unicodedata.category(char) == "Cc"})
    if controls:
        yield "control characters", f"the prompt holds {', '.join(map(repr, controls))}; take them out"
    bare = text.strip()
    if bare.casefold() in _NO_VALUE:
        yield (
            "no prompt",
            f"{bare!r} is what programs write for a missing value; write a caption, or leave it empty",
        )
    if len(bare) > 1 and (bare.startswith('"') != bare.endswith('"') or (bare[0] == bare[-1] == '"')):
        yield "stray quotes", f"the prompt begins or ends with a quote ({bare[:30]!r}); was it quoted twice?"


def _marks(files: SplitFiles, csv_file: Path | None) -> Iterator[tuple[Path, str]]:
    for file in (csv_file, files.instance_prompts):
        if file is not None and file.is_file():
            with file.open("rb") as opened:
                if opened.read(3) == b"\xef\xbb\xbf":
                    yield file, f"{file}, line 1 begins with a byte order mark, which is left out"


def _repeated(files: SplitFiles, csv_file: Path | None) -> list[Finding]:
    """A caption that most pictures share."""
    if csv_file is None:
        return []
    pictures = defaultdict(list)
    for sample in files.samples:
        if text := sample.prompts.global_prompt.strip():
            pictures[text].append(sample.key)
    return [
        _finding(
            Severity.WARNING,
            "same prompt everywhere",
            f"{csv_file}: {len(names)} of {len(files.samples)} pictures have the prompt {text[:80]!r} "
            f"({some(names)}); captions that tell nothing apart teach nothing",
            csv_file,
        )
        for text, names in pictures.items()
        if len(names) >= _MANY and len(names) > _SHARE * len(files.samples)
    ]


def _finding(severity: Severity, kind: str, text: str, file: Path) -> Finding:
    return Finding(severity=severity, kind=kind, text=text, file=file, line=1 if severity is Severity.NOTE else None)
