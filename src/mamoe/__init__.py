"""mamoe: fine-tune latent diffusion models on a narrow domain, steered by panoptic maps and prompts.

The public names are imported on first use, so that ``import mamoe`` and ``mamoe --help`` stay instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mamoe.models.unet import MaMoEUNet2DConditionModel
    from mamoe.sampling.pipeline import LayoutPipeline
    from mamoe.vocabulary.framing import Framing
    from mamoe.vocabulary.panoptic import PanopticMap
    from mamoe.vocabulary.taxonomy import Taxonomy

__version__ = "0.1.0"

_HOME = {
    "Framing": "mamoe.vocabulary.framing",
    "LayoutPipeline": "mamoe.sampling.pipeline",
    "MaMoEUNet2DConditionModel": "mamoe.models.unet",
    "PanopticMap": "mamoe.vocabulary.panoptic",
    "Taxonomy": "mamoe.vocabulary.taxonomy",
}

__all__ = ["Framing", "LayoutPipeline", "MaMoEUNet2DConditionModel", "PanopticMap", "Taxonomy"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mamoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
