"""What every section of the configuration that draws pictures says of it."""

from __future__ import annotations

from pydantic import Field

from mamoe.config.schema import Float, Int, Section
from mamoe.vocabulary.drawing import DRAWING


class Drawn(Section):
    """See :class:`mamoe.vocabulary.drawing.Drawing`, which has the defaults."""

    steps: Int = Field(DRAWING.steps, ge=1)
    guidance_scale: Float = Field(DRAWING.guidance_scale, ge=0, allow_inf_nan=False)
