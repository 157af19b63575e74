"""One sentence that is true of the picture."""

from collections.abc import Sequence

import numpy as np


def join(names: Sequence[str]) -> str:
    """ "a, b and c" of the names."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def with_article(words: str) -> str:
    """ "a" or "an" in front of the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def street_caption(
    rng: np.random.Generator, place: str, time: str, things: Sequence[str], extras: Sequence[str]
) -> str:
    """Describe a street: its kind, the time of day and what is seen, in one of a few orders.

    Args:
        rng: picks the wording.
        place: such as "a street in a town".
        time: such as "at dusk".
        things: prompts of the largest things, largest first.
        extras: short phrases about the surroundings, such as "trees".
    """
    seen = join([*things, *extras])
    if not seen:
        return f"{place} {time}"
    pattern = int(rng.integers(4))
    if pattern == 0:
        return f"{place} {time}, with {seen}"
    if pattern == 1:
        return f"{place} {time} with {seen}"
    if pattern == 2:
        return f"{seen} on {place} {time}"
    return f"{time}, {seen} on {place}"


def close_caption(rng: np.random.Generator, things: Sequence[str], floor: str, time: str) -> str:
    """Describe a close-up: the things, sometimes what they stand on and the time of day."""
    caption = join(things)
    if rng.random() < 0.5:
        caption += f" on {floor}"
    if rng.random() < 0.5:
        caption += f" {time}"
    return caption
