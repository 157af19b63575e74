"""What families of transformers in which text attends too have in common, as families of networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone
from mamoe.models.joint.steered import SteeredJoint


def converted(kind: type[SteeredJoint]) -> Any:
    """What makes networks of a stock class those of ``kind``, asked as other families are asked."""

    def convert(
        transformer: Any,
        *,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        copies: bool = True,
        expert_rank: int | None = None,
        expert_alpha: float | None = None,
        **own: Any,
    ) -> Any:
        problems = []
        if moe_levels is not None and list(moe_levels) != [0]:
            problems.append(f"its blocks all work on one level, so moe_levels must be [0] or null, got {moe_levels}")
        if learned_strength:
            problems.append("text attends here too, so that its regions bind as they are (regions.strength=hard)")
        if shared_expert:
            problems.append("its experts are additions to a shared feed-forward already")
        if problems:
            raise ConfigError(f"A {kind.__name__} cannot be made so: {'; '.join(problems)}.")
        return kind.from_transformer(transformer, **own)

    return convert


# A family says what is left.
joint_backbone = partial(
    Backbone,
    part="transformer",
    levels_with_blocks=lambda transformer: (0,),
    text_width=lambda config: config["joint_attention_dim"],
    methods=("lora", "lora_experts"),
    weighs=False,
    flow=True,
    lora_prefix="transformer",
)
