"""The two scores of the demo: do the pictures show the colours and the layout they were asked for?

The figures are those that ``mamoe evaluate`` gives for the folders the pictures lie in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.commands.evaluate import evaluate_folder
from mamoe.evaluation.layout.family import COLOURS
from mamoe.evaluation.protocol import Score
from mamoe.evaluation.request import Asked, Progress
from mamoe.evaluation.run import CEILING, LAYOUT
from mamoe.evaluation.table import Table

ACCURACY = "pixel accuracy-domain"
DRAWN, REAL = "generated", CEILING  # rows of a table


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoScores:
    """Colour hits of four kinds of pictures of the same test layouts, and pixel accuracy of two."""

    real: Score
    mamoe: Score
    swapped: Score  # drawn with, and measured against, swapped colours
    base: Score  # the base model, told the prompt but no layout
    instances: int  # whose colour was looked at
    chance: float  # 1 / number of colour words
    caption_chance: float  # of one who knows the caption's colours but not what wears them: the base model's yardstick
    accuracy_real: Score  # of the segmenter, on real test pictures
    accuracy_mamoe: Score

    @property
    def colour_share(self) -> float:
        """MaMoE's hit rate as a share of the real pictures'."""
        return value_of(self.mamoe) / value_of(self.real)

    @property
    def swapped_share(self) -> float:
        """The hit rate with swapped prompts as a share of the real pictures'."""
        return value_of(self.swapped) / value_of(self.real)

    @property
    def layout_share(self) -> float:
        """The segmenter's accuracy on MaMoE's pictures as a share of that on real ones."""
        return value_of(self.accuracy_mamoe) / value_of(self.accuracy_real)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for the demo's last line."""
        return {
            **{f"colour_{name}": rounded(getattr(self, name)) for name in ("real", "mamoe", "swapped", "base")},
            "colour_instances": self.instances,
            "colour_chance": round(self.chance, 4),
            "colour_caption_chance": round(self.caption_chance, 4),
            "colour_mamoe_to_real": round(self.colour_share, 4),
            "colour_swapped_to_real": round(self.swapped_share, 4),
            "layout_accuracy_real": rounded(self.accuracy_real),
            "layout_accuracy_mamoe": rounded(self.accuracy_mamoe),
            "layout_mamoe_to_real": round(self.layout_share, 4),
        }


def value_of(score: Score) -> float:
    """A score's value; the demo's pictures and maps have every score it shows."""
    assert score.value is not None, f"{score.name}: {score.missing}"
    return score.value


def rounded(score: Score) -> float:
    return round(value_of(score), 4)


def measured(
    drawn: Path, data: Path, out: Path, *, seed: int, prompts: Path | None = None, progress: Progress | None = None
) -> Table:
    """The layout scores of a folder of pictures, as ``mamoe evaluate DRAWN --data DATA --scores layout`` gives them.

    Args:
        drawn: the pictures.
        data: the data set whose test layouts they were drawn from.
        out: where the table is written.
        seed: of the segmenter and the intervals.
        prompts: instance prompts they were drawn with; None: those of the data set.
        progress: of the segmenter, which is learned when it is not yet there.
    """
    asked = Asked(data=data, scores=(LAYOUT,), instance_prompts=prompts, out=out, seed=seed)
    table, _ = evaluate_folder(drawn, asked, progress)
    assert table is not None, "the demo runs in one process"
    return table


def side_by_side(tables: Mapping[str, Table], *, instances: int, chance: float, caption_chance: float) -> DemoScores:
    """The demo's figures out of the tables of ``mamoe``, ``swapped`` and ``base`` pictures."""
    rates = {name: score_in(table, DRAWN, COLOURS) for name, table in tables.items()}
    return DemoScores(
        real=score_in(tables["mamoe"], REAL, COLOURS),
        **rates,
        instances=instances,
        chance=chance,
        caption_chance=caption_chance,
        accuracy_real=score_in(tables["mamoe"], REAL, ACCURACY),
        accuracy_mamoe=score_in(tables["mamoe"], DRAWN, ACCURACY),
    )


def score_in(table: Table, label: str, name: str) -> Score:
    (row,) = (row for row in table.rows if row.label == label)
    score = row.score(name)
    assert score is not None, f"{label} has no {name}"
    return score
