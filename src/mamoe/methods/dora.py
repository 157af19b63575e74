"""Low-rank adapters that learn the size of each output weight apart from its direction, through peft.

DoRA   m (W + (alpha / rank) B A) / |W + ...| x       Liu et al. 2024, section 4.1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mamoe.methods.lora import Lora
from mamoe.methods.options import DoraOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Dora(Lora, DoraOptions):
    """Adapters as :class:`~mamoe.methods.lora.Lora` places them, of the other kind."""

    learns_sizes: ClassVar[bool] = True
