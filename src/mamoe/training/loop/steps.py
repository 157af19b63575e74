"""When callbacks act: at optimizer steps, not at micro-batches."""

from __future__ import annotations

from lightning.pytorch import Trainer


def stepped(trainer: Trainer, batch_idx: int) -> bool:
    """Whether this micro-batch finished an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_due(trainer: Trainer, batch_idx: int, every_n_steps: int) -> bool:
    """Whether something done every n optimizer steps, and after the last one, is to be done now."""
    if not stepped(trainer, batch_idx):
        return False
    step = trainer.global_step
    return step % every_n_steps == 0 or step == trainer.max_steps
