"""In which of a network's blocks regions hold; in the others every cell reads the text of its whole picture."""

from __future__ import annotations

from collections.abc import Sequence

from mamoe.errors import ConfigError


def held_blocks(region_attention: bool, region_blocks: Sequence[int] | None, count: int) -> list[bool]:
    """Whether regions hold, for each of ``count`` blocks in the order they run.

    Args:
        region_attention: False = in none.
        region_blocks: numbers of the blocks, from 0; None = all.
        count: blocks of the network.

    Raises:
        ConfigError: there are no blocks of these numbers; or there is no block, or no region attention, to name.
    """
    if region_blocks is None:
        return [region_attention] * count
    problem = None
    if not region_attention:
        problem = "needs region_attention (layout.region_attention=true): without it regions hold nowhere"
    elif not region_blocks:
        problem = "names no block: leave it out (null) for all, or set layout.region_attention=false for none"
    elif unknown := [number for number in region_blocks if number not in range(count)]:
        problem = (
            f"names {unknown}, and this network has {count} transformer blocks: 0 to {count - 1} in the order they run"
        )
    if problem is not None:
        raise ConfigError(f"region_blocks={list(region_blocks)} (layout.blocks) {problem}.")
    return [number in region_blocks for number in range(count)]


def listed(region_blocks: Sequence[int] | None) -> list[int] | None:
    """The numbers as a network's configuration keeps them: each once, in order."""
    return None if region_blocks is None else sorted(set(region_blocks))


def lets_go(was: Sequence[int] | None, now: Sequence[int] | None) -> bool:
    """Whether there is a block in which regions held by ``was`` and do not by ``now``; None = all blocks."""
    return now is not None and (was is None or not set(was) <= set(now))
