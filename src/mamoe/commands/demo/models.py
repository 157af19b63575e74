"""The base models that the demo can fine-tune."""

from __future__ import annotations

from enum import StrEnum

from mamoe.vocabulary.drawing import Drawing

SEED = 0  # of the data, the training, and the pictures


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
    def drawing(self) -> Drawing:
        """How its pictures are drawn: in as few denoising steps as draw what more of them draw."""
        steps = 5 if self is DemoModel.TINY else 12
        return Drawing(steps=steps, guidance_scale=3.0, batch_size=8, seed=SEED)

    @property
    def scheduler(self) -> str | None:
        """The sampler by name; None: the model's own.

        Over the few steps of a small picture UniPC (Zhao et al. 2023) goes as far as DDIM in eight.
        """
        return "UniPCMultistep" if self is DemoModel.TINY else None
