"""The base models that the demo can fine-tune."""

from __future__ import annotations

from enum import StrEnum


class DemoModel(StrEnum):
    """A model that ships with the package, by the name it has in ``model=``."""

    TINY = "tiny"
    TINY_DIT = "tiny_dit"

    @property
    def experiment(self) -> str:
        """The settings of its training."""
        return f"demo_{self}"

    @property
    def folder(self) -> str:
        """Where the demo goes unless it is told; a demo that is begun goes on there."""
        return "demo" if self is DemoModel.TINY else f"demo_{self}"

    @property
    def kind(self) -> str:
        """What its network is."""
        return "a UNet" if self is DemoModel.TINY else "a transformer"

    @property
    def drawing_steps(self) -> int:
        """Denoising steps of a picture: as few as draw what more of them draw."""
        return 8 if self is DemoModel.TINY else 12
