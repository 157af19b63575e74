"""What a model is told, in YAML that users may write too."""

from __future__ import annotations

import re
import reprlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mamoe.errors import ConfigError, nearest
from mamoe.storage.yaml_file import read_yaml

_SHIPPED = Path(__file__).parent / "templates"
_DETAILS = ("auto", "low", "high")
_PLACES = ("words", "class")
_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What is said with a picture, and how it is sent.

    Raises:
        ConfigError: values that cannot be meant; one error lists everything found.
    """

    prompt: str  # {words} and {class} stand for the number below and what the object is called
    system: str = ""  # empty: there is no such message
    words: int = 60  # the most an answer should have
    max_tokens: int = 200  # the most a server may write
    longest_side: int = 1024  # of the picture sent, in pixels
    detail: str = "auto"
    temperature: float | None = None  # None: the server's own

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ConfigError(f"This template cannot be meant: {'; '.join(problems)}.")

    @classmethod
    def load(cls, name_or_path: str) -> Template:
        """``picture`` or ``object``, which are shipped, or a YAML file of one's own.

        Raises:
            ConfigError: there is no such template, or it cannot be read or meant.
        """
        shipped = sorted(path.stem for path in _SHIPPED.glob("*.yaml"))
        path = _SHIPPED / f"{name_or_path}.yaml" if name_or_path in shipped else Path(name_or_path)
        try:
            plain = read_yaml(path)
        except OSError as error:
            raise ConfigError(
                f"The template {name_or_path} cannot be read: {error.strerror}. Give the path of a YAML file, or one "
                f"of {', '.join(shipped)}."
            ) from None
        except ValueError as error:
            raise ConfigError(f"The template {path} {error}.") from None
        known = [one.name for one in fields(cls)]
        if not isinstance(plain, dict) or "prompt" not in plain:
            raise ConfigError(
                f"The template {path} must map prompt, and perhaps {', '.join(known[1:])}, to values; "
                f"got {reprlib.repr(plain)}."
            )
        if odd := [str(key) for key in plain if key not in known]:
            near = nearest(odd[0], known)
            raise ConfigError(
                f"The template {path} has no key {odd[0]!r}"
                + (f"; did you mean {near}?" if near else f"; there are {', '.join(known)}.")
            )
        try:
            return cls(**plain)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def messages(self, subject: str) -> tuple[str, str]:
        """The system's words and the user's, about what is called ``subject``."""
        values = {"words": str(self.words), "class": subject}
        system, prompt = (_PLACE.sub(lambda m: values[m[1]], text) for text in (self.system, self.prompt))
        return system, prompt

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by the keys of the YAML."""
        return asdict(self)


def _problems(template: Template) -> list[str]:
    found = []
    for key in ("prompt", "system"):
        text = getattr(template, key)
        if not isinstance(text, str) or (key == "prompt" and not text.strip()):
            found.append(f"{key} must be text, got {reprlib.repr(text)}")
        elif odd := sorted(set(_PLACE.findall(text)) - set(_PLACES)):
            found.append(f"{key} has the place {{{odd[0]}}}; there are {{words}} and {{class}}")
    for key, low, high in (("words", 1, 1000), ("max_tokens", 1, 100_000), ("longest_side", 32, 8192)):
        value = getattr(template, key)
        if type(value) is not int or not low <= value <= high:
            found.append(f"{key} must be a whole number from {low} to {high}, got {value!r}")
    if template.detail not in _DETAILS:
        found.append(f"detail must be one of {', '.join(_DETAILS)}, got {template.detail!r}")
    if not (
        template.temperature is None or (type(template.temperature) in (int, float) and 0 <= template.temperature <= 2)
    ):
        found.append(f"temperature must be a number from 0 to 2, or null, got {template.temperature!r}")
    return found
