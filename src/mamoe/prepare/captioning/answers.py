"""What a model answered: brought into the form of a prompt, and what is wrong with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from mamoe.prepare.captioning.template import Template

_TOLERANCE = 1.5  # of the words asked for: models count badly
_RUN = 7  # words in a row that an answer shares with its instructions only by repeating them
_INVISIBLE = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200B, 0xFEFF])  # they turn text around
_QUOTES = {'"': '"', "'": "'", "`": "`", "*": "*", "“": "”", "‘": "’", "«": "»"}
_FORMULA = "=+-@|% \t"  # a spreadsheet would compute what begins with these; no caption needs to
_REFUSAL = re.compile(
    r"\b(i['’]?m|i am) (sorry|unable|not able)\b"
    r"|\bi (can['’]?t|cannot|can not|won['’]?t|will not|could not|couldn['’]?t) "
    r"(help|assist|describe|comply|identify|provide|see|view|process|answer|fulfil)"
    r"|\bas an ai\b|\bunable to (assist|help|describe|view|see|process)\b"
    r"|\bno (image|picture|photo)\w* (was|is|has been|were) (provided|attached|uploaded|given)\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(sure|certainly|of course|okay|here(['’]s| is| are)\b"
    r"|(the )?(caption|label|description|answer|assistant|user|system)\s*:)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<\|?/?(im_start|im_end|s|system|user|assistant|image|end_of_utterance|eot_id)\b|\[/?INST\]|```")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back for one request."""

    text: str = ""  # as it was written
    finish: str | None = None  # why the model stopped: "stop", "length", "content_filter"
    refusal: str | None = None  # in the model's words, where the server tells it apart
    error: str | None = None  # why the server would not take the request
    tokens: tuple[int, int] | None = None  # read and written, as the server counts; None: it did not say
    pixels: int | None = None  # of the picture it was shown; None: nobody noted


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLimit:
    """How many tokens the base model's text encoder takes."""

    count: Callable[[str], int]  # tokens of a prompt, begin and end among them
    most: int


def cleaned(text: str) -> str:
    """An answer as a prompt: one line, without what cannot be seen, quotes or stars around it, and without a beginning
    that a spreadsheet would take for a formula."""
    plain = unicodedata.normalize("NFC", text).translate(_INVISIBLE)
    plain = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") else letter for letter in plain)
    plain = " ".join(plain.split())
    while True:
        before = plain
        plain = plain.lstrip(_FORMULA).rstrip()
        if len(plain) > 1 and _QUOTES.get(plain[0]) == plain[-1]:
            plain = plain[1:-1].strip()
        if plain == before:
            return plain


def fault_of(reply: Reply, template: Template, limit: TokenLimit | None) -> str | None:
    """Why an answer does not serve as a prompt, in a few words; None where it does."""
    if reply.error is not None:
        return f"refused by the server: {reply.error}"
    if reply.refusal:
        return f"refusal: {reply.refusal}"
    if reply.finish == "content_filter":
        return "refusal: the server's filter"
    text = cleaned(reply.text)
    if _REFUSAL.search(text[:200]):
        return "refusal"
    if reply.finish == "length":
        return f"cut off after max_tokens ({template.max_tokens})"
    if not re.search(r"\w", text):
        return "empty"
    if _PREAMBLE.match(text) or _MARKUP.search(reply.text) or _repeats(text, " ".join(template.messages(""))):
        return "leaked instructions"
    return _too_long(text, template, limit)


def _too_long(text: str, template: Template, limit: TokenLimit | None) -> str | None:
    if limit is not None:
        tokens = limit.count(text)
        return f"too long: {tokens} tokens, the text encoder takes {limit.most}" if tokens > limit.most else None
    words = len(text.split())
    return f"too long: {words} words, wanted {template.words}" if words > _TOLERANCE * template.words else None


def _repeats(text: str, instructions: str) -> bool:
    said, told = (re.findall(r"\w+", one.casefold()) for one in (text, instructions))
    runs = {tuple(told[i : i + _RUN]) for i in range(len(told) - _RUN + 1)}
    return any(tuple(said[i : i + _RUN]) in runs for i in range(len(said) - _RUN + 1))
