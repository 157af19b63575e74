"""How pictures are drawn: the one record of it, and the only place where its defaults stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mamoe.errors import ConfigError


class Mode(StrEnum):
    """How much a picture is told to follow its prompts and layout."""

    COND = "cond"  # they are given, without guidance
    UNCOND = "uncond"  # the empty prompt and no layout
    CFG = "cfg"  # classifier-free guidance between the two


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How pictures are drawn, whoever asks for them.

    Raises:
        ConfigError: an unknown mode, or a number out of range; names them all.
    """

    mode: Mode = Mode.CFG
    steps: int = 50  # of the scheduler
    guidance_scale: float = 4.0  # of mode cfg; the other two have none
    guidance_layout: float | None = None  # on the layout by itself, guidance_scale being that on the global prompt
    regions_from: float = 0.0  # share of the steps, in [0, 1], from which prompts of segments bind
    regions_until: float = 1.0  # and until which
    rescale: float | None = None  # of guidance, in [0, 1]; None: 0.7 for a zero-terminal-SNR schedule, else 0
    batch_size: int = 4  # pictures drawn together
    seed: int = 0  # those of the pictures derive from it

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.mode not in list(Mode):
            problems.append(f"there is no mode {self.mode}; there are {', '.join(Mode)}")
        if self.steps < 1:
            problems.append(f"steps must be at least 1, got {self.steps}")
        if not 0.0 <= self.guidance_scale < math.inf:
            problems.append(f"guidance_scale must be 0 or more and finite, got {self.guidance_scale}")
        if self.guidance_layout is not None and not 0.0 <= self.guidance_layout < math.inf:
            problems.append(f"guidance_layout must be 0 or more and finite, got {self.guidance_layout}")
        if self.guidance_layout is not None and self.mode is not Mode.CFG:
            problems.append(f"guidance_layout is for mode cfg, got {self.mode}")
        if not 0.0 <= self.regions_from <= self.regions_until <= 1.0:
            problems.append(
                "regions_from and regions_until are shares of the steps in [0, 1], the first not behind the second, "
                f"got {self.regions_from} and {self.regions_until}"
            )
        if self.rescale is not None and not 0.0 <= self.rescale <= 1.0:
            problems.append(f"rescale must lie in [0, 1], got {self.rescale}")
        if self.batch_size < 1:
            problems.append(f"batch_size must be at least 1, got {self.batch_size}")
        if problems:
            raise ConfigError(f"Nothing can be drawn so: {'; '.join(problems)}.")

    @property
    def scale(self) -> float:
        """The guidance scale the mode stands for: 1 follows the prompts, 0 ignores prompts and layout."""
        return {Mode.COND: 1.0, Mode.UNCOND: 0.0, Mode.CFG: self.guidance_scale}[self.mode]

    @property
    def said(self) -> dict[str, float]:
        """What records say besides mode, steps and scale: what is not as it is where nobody said anything."""
        given = {
            "guidance_rescale": self.rescale,
            "guidance_layout": self.guidance_layout,
            "regions_from": self.regions_from or None,
            "regions_until": None if self.regions_until == 1.0 else self.regions_until,
        }
        return {name: value for name, value in given.items() if value is not None}


DRAWING = Drawing()
SAID = ("guidance_rescale", "guidance_layout", "regions_from", "regions_until")  # what may stand in Drawing.said


def modes_of(names: Iterable[str]) -> tuple[Mode, ...]:
    """The modes of these names, in order.

    Raises:
        ConfigError: names those that there are not.
    """
    given = list(names)
    unknown = [name for name in given if name not in list(Mode)]
    if unknown or not given:
        raise ConfigError(f"There is no mode {', '.join(unknown) or '(none given)'}; there are {', '.join(Mode)}.")
    return tuple(map(Mode, given))


def mode_of(scale: float, guidance_layout: float | None = None) -> Mode:
    """The mode that guidance stands for, where nobody said one."""
    if guidance_layout is not None:
        return Mode.CFG
    return {1.0: Mode.COND, 0.0: Mode.UNCOND}.get(scale, Mode.CFG)
