"""The noise levels that a network is trained at, as one table whatever its schedule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from mamoe.diffusion.parameterization import Prediction
from mamoe.diffusion.schedules import is_flow, prediction_of, shift_of
from mamoe.machine.transfers import sent


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoiseLevels:
    """T noise levels, from the cleanest to the noisiest; a timestep is a place in this table."""

    prediction: Prediction  # what the network predicts
    alpha: Float[Tensor, "T"]  # the share of picture in x_t, in [0, 1]
    sigma: Float[Tensor, "T"]  # the share of noise, in [0, 1]
    told: Shaped[Tensor, "T"]  # what the network is told: i64 0..T-1 in a diffusion, f32 T * sigma in a flow

    @classmethod
    def of(cls, scheduler: Any, patches: int | None = None) -> NoiseLevels:
        """Those of a scheduler that :mod:`mamoe.diffusion.schedules` makes or reads.

        ``patches`` are the picture's, for a flow whose shift grows with them; None: as many as it has its base for.

        A flow's place i has u = (i + 1) / T and sigma = shift u / (1 + (shift - 1) u), Esser et al. 2024, section
        5.3.2: drawing u and shifting it are one draw from this table.
        """
        prediction = prediction_of(scheduler.config)
        if is_flow(scheduler.config):
            count = scheduler.config["num_train_timesteps"]
            shift = shift_of(scheduler.config, scheduler.config["base_image_seq_len"] if patches is None else patches)
            even = torch.arange(1, count + 1, dtype=torch.float64) / count
            sigma = shift * even / (1 + (shift - 1) * even)
            levels = ((1 - sigma).float(), sigma.float(), (sigma * count).float())
        else:
            kept = scheduler.alphas_cumprod
            levels = (kept.sqrt(), (1 - kept).sqrt(), torch.arange(len(kept)))
        alpha, sigma, told = levels
        return cls(prediction=prediction, alpha=alpha, sigma=sigma, told=told)

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, timesteps: Int64[Tensor, "B"]) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
        """alpha and sigma of some timesteps, on the timesteps' device."""
        alpha, sigma = (_read(table, timesteps).view(-1, 1, 1, 1) for table in (self.alpha, self.sigma))
        return alpha, sigma

    def told_at(self, timesteps: Int64[Tensor, "B"]) -> Shaped[Tensor, "B"]:
        """What the network is told of some timesteps, on their device."""
        return _read(self.told, timesteps)


def _read(table: Shaped[Tensor, "T"], timesteps: Int64[Tensor, "B"]) -> Shaped[Tensor, "B"]:
    if table.device != timesteps.device:
        table = sent(table, timesteps.device)
    return table[timesteps]
