"""When in the course of denoising the prompts of regions bind.

A region without its prompt sees what the whole picture sees; its class's expert works on it all the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from mamoe.vocabulary.panoptic import PanopticMap

Share = float | Mapping[int, float]  # of the denoising, in [0, 1]; one for all segments, or segment id -> share


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """The prompt of a segment binds in step i of n where ``begin <= i / n < end``; ``end`` 1 is to the last step.

    Segments that a mapping does not name are bound from the beginning (``begin``) or to the end (``end``).
    """

    begin: Share = 0.0
    end: Share = 1.0

    def problems(self, segments: Collection[int]) -> list[str]:
        """What is wrong with the shares for a map that has these ``segments``."""
        found = []
        for name, given in (("regions_from", self.begin), ("regions_until", self.end)):
            named = given if isinstance(given, Mapping) else {}
            shares = named.values() if isinstance(given, Mapping) else [given]
            if outside := [share for share in shares if not (isinstance(share, Real) and 0.0 <= float(share) <= 1.0)]:
                found.append(f"{name} are shares of the denoising in [0, 1], got {outside}")
            if strange := [segment for segment in named if segment not in segments]:
                found.append(f"{name} speaks of segments {strange}, which the map does not have")
        if not found and (turned := [segment for segment in segments if self._begin(segment) > self._end(segment)]):
            found.append(f"regions_from lies behind regions_until for the segments {turned}")
        return found

    def loose(self, segments: Collection[int], share: float) -> list[int]:
        """The segments whose prompt does not bind when ``share`` of the denoising is done."""
        return [one for one in segments if not self._begin(one) <= share < self._end(one)]

    def changes(self) -> set[float]:
        """When something begins or ceases to bind, but for the beginning and the end of all."""
        given = (self.begin, self.end)
        shares = [s for one in given for s in (one.values() if isinstance(one, Mapping) else [one])]
        return {float(share) for share in shares if 0.0 < share < 1.0}

    def _begin(self, segment: int) -> float:
        return self.begin.get(segment, 0.0) if isinstance(self.begin, Mapping) else self.begin

    def _end(self, segment: int) -> float:
        return self.end.get(segment, 1.0) if isinstance(self.end, Mapping) else self.end


ALWAYS = Binding()


def phase_starts(bindings: Sequence[Binding]) -> list[float]:
    """The shares of the denoising, 0 first, at which one of the bindings changes something."""
    return sorted({0.0}.union(*(binding.changes() for binding in bindings)))


def without_segments(panoptic: PanopticMap, segments: Collection[int]) -> PanopticMap:
    """The map whose pixels of these segments belong to none, and to the same class as before."""
    gone = np.isin(panoptic.segment_id, list(segments))
    return PanopticMap(segment_id=np.where(gone, np.int32(0), panoptic.segment_id), class_id=panoptic.class_id)
