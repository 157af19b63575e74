"""One training step of a latent diffusion model.

The flow:  Batch -> Conditioning -> Noise -> Predict -> Loss, then the optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mamoe.diffusion.losses import Denoised, LatentLoss, mse
from mamoe.diffusion.parameterization import Prediction, alpha_sigma, noised
from mamoe.errors import ConfigError
from mamoe.methods import to_channels_last
from mamoe.models.control.call import control_input, control_of, predict
from mamoe.randomness import derive_seed
from mamoe.training.optim import apply_lr_factors, parameter_groups
from mamoe.training.optim.ema import AveragedWeights, ScheduleFreeAverage, WeightAverage, is_schedule_free
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.loss_scale import ScaledPrecision
from mamoe.training.scale.sharding import shard, whole_of
from mamoe.training.step.draws import Draws, posterior_noise, training_draws
from mamoe.training.step.finite import StepWatch
from mamoe.training.step.latents import LatentScaling, moments_of
from mamoe.training.step.timesteps import UNIFORM, Places, TimestepKind, TimestepSampling
from mamoe.vocabulary.batch import Batch, RegionBatch
from mamoe.vocabulary.conditioning import Conditioning

ConditionerFn = Callable[[RegionBatch, torch.device, torch.dtype], Conditioning]


class DiffusionModule(LightningModule):
    """Trains ``unet`` (and on request the text encoder) to undo noise; autoencoder and schedule stay as they are.

    Args:
        unet: a stock or MaMoE UNet with float32 weights, or one that also takes a condition picture (see
            :mod:`mamoe.models.control.call`).
        vae: the autoencoder, frozen; kept out of this module's parameters and state. None: every batch comes encoded,
            and no condition picture enters as a latent.
        scaling: how the UNet knows the autoencoder's latents.
        text_encoder: the network inside ``conditioner``, frozen unless ``train_text_encoder``. None: there is none,
            the prompts have been encoded.
        conditioner: regions -> conditioning on a device; differentiable when the text encoder is trained.
        scheduler: the noise schedule; its ``prediction_type`` is what the UNet predicts.
        optimizer: parameter groups as torch has them -> optimizer.
        lr_scheduler: optimizer -> schedule, stepped once per optimizer step.
        lr_factors: times the optimizer's learning rate, by :class:`~mamoe.training.optim.Part`; 1 where not named.
        loss: what is minimised, per picture.
        loss_networks: what ``loss`` looks through; frozen, moved along, and kept out of parameters and state.
        timesteps: how noise levels are drawn.
        prompt_dropout: share of pictures seen without prompt and layout, for classifier-free guidance.
        snr_gamma: min-SNR-gamma of the loss weights; None weighs all noise levels alike.
        ema_decay: decay of the weight average; None keeps no average. A schedule-free optimizer brings its own.
        seed: every draw derives from it.
        adapter_alone: whether checkpoints hold the UNet's trained weights only.
    """

    def __init__(
        self,
        *,
        unet: nn.Module,
        vae: AutoencoderKL | None,
        scaling: LatentScaling,
        text_encoder: nn.Module | None,
        conditioner: ConditionerFn,
        scheduler: DDPMScheduler,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        lr_factors: Mapping[str, float] | None = None,
        loss: LatentLoss = mse,
        loss_networks: Sequence[nn.Module] = (),
        timesteps: TimestepSampling = UNIFORM,
        prompt_dropout: float = 0.1,
        snr_gamma: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        train_text_encoder: bool = False,
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        adapter_alone: bool = False,
    ) -> None:
        super().__init__()
        self.unet = to_channels_last(unet) if channels_last else unet
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()  # type: ignore[operator]
        # A tuple hides the frozen networks from nn.Module, so that they are neither trained, saved nor synchronised.
        frozen = ((vae,) if train_text_encoder else (vae, text_encoder)) + tuple(loss_networks)
        self._frozen = tuple(network for network in frozen if network is not None)
        for network in self._frozen:
            network.requires_grad_(False).eval()
        if train_text_encoder:
            assert text_encoder is not None, "a text encoder that is trained is there"
            self.text_encoder = text_encoder
        self.train()  # from_pretrained hands networks over in evaluation mode
        self._vae, self.scaling = (vae,), scaling
        self.conditioner = conditioner
        self.prediction = Prediction.parse(scheduler.config["prediction_type"])
        self.alphas_cumprod = scheduler.alphas_cumprod.clone()
        self.loss, self.timesteps, self.adapter_alone = loss, timesteps, adapter_alone
        self.prompt_dropout, self.snr_gamma, self.ema_decay, self.seed = prompt_dropout, snr_gamma, ema_decay, seed
        self.ema: AveragedWeights | None = None
        self.watch = StepWatch()
        self._make_optimizer, self._make_lr_scheduler, self._lr_factors = optimizer, lr_scheduler, lr_factors or {}
        self._mean_size: float | None = None  # pictures of a micro-batch, on average over those of a step
        _check(self)

    @property
    def vae(self) -> AutoencoderKL | None:
        return self._vae[0]

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks with weights of their own in a checkpoint, by folder name."""
        return {name: module for name, module in self.named_children() if name in ("unet", "text_encoder")}

    # The loss of a batch.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Batch.
        epoch, index = batch.epoch.tolist(), batch.index.tolist()
        latents = self.encode(batch)
        shape = tuple(latents.shape[1:])
        draws = training_draws(
            self.seed,
            epoch,
            index,
            shape,  # type: ignore[arg-type]
            len(self.alphas_cumprod),
            self.prompt_dropout,
            sampling=self.timesteps,
            places=self._places(batch_idx) if self.timesteps.kind is TimestepKind.STRATIFIED else None,
        )
        loss = self.loss_per_image(latents, batch.regions, draws, batch.cell_weight, step=self.global_step)
        self.watch.add(loss, batch)
        # Lightning averages over the micro-batches; where they are pieces of unequal size, each picture counts alike.
        return loss.sum() / (self._mean_size or len(loss))

    def loss_per_image(
        self,
        latents: Float[Tensor, "B C h w"],
        regions: RegionBatch,
        draws: Draws,
        cell_weight: Float[Tensor, "B h w"] | None = None,
        step: int | None = None,
    ) -> Float[Tensor, "B"]:
        """The weighted loss of every picture, float32; ``step`` is None for pictures that nothing is learned from."""
        draws = draws.to(latents.device)

        # Conditioning.
        regions = regions.drop(draws.dropped)
        conditioning, control = self._condition(regions), self._control(regions)

        # Noise.
        alpha, sigma = alpha_sigma(self.alphas_cumprod, draws.timesteps)
        noisy = noised(latents, draws.noise, alpha, sigma)

        # Predict.
        output = predict(self.unet, noisy, draws.timesteps, conditioning.unet_inputs(), control)

        # Loss.
        denoised = Denoised(
            prediction=self.prediction,
            output=output,
            clean=latents,
            noise=draws.noise,
            alpha=alpha,
            sigma=sigma,
            timesteps=draws.timesteps,
            conditioning=conditioning,
            seeds=draws.loss_seeds,
            step=step,
            cell_weight=cell_weight,
            snr_gamma=self.snr_gamma,
        )
        return self.loss(denoised)

    @property
    def _data(self) -> LayoutDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _places(self, batch_idx: int) -> Places:
        trainer, data = self.trainer, self._data
        accumulated, part = trainer.accumulate_grad_batches, batch_idx % trainer.accumulate_grad_batches
        return Places(
            batch=(trainer.global_step * accumulated + part) // data.pieces,
            first=trainer.global_rank + data.piece(batch_idx)[0] * trainer.world_size,
            stride=trainer.world_size,
            size=data.batch_size,
        )

    @torch.no_grad()
    def encode(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """The latents of a batch's pictures: a posterior sample each, shifted and scaled as the UNet knows them."""
        if batch.moments is not None:
            moments = batch.moments.to(self.device)
        else:
            assert self.vae is not None and batch.image is not None
            moments = moments_of(self.vae, batch.image)
        mean, std = moments.unbind(1)
        shape = tuple(mean.shape[1:])
        noise = posterior_noise(self.seed, batch.epoch.tolist(), batch.index.tolist(), shape).to(mean.device)  # type: ignore[arg-type]
        return self.scaling.scaled(mean + std * noise)

    @torch.no_grad()
    def _control(self, regions: RegionBatch) -> Tensor | None:
        form = control_of(self.unet)
        if form is None:
            return None
        if regions.condition is None:
            raise ConfigError("This method is shown a condition picture, and the data has none: set data.condition.")
        return control_input(form, regions.condition.to(self.device), self.vae)

    def _condition(self, regions: RegionBatch) -> Conditioning:
        trained = "text_encoder" in self.trained
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            conditioning = self.conditioner(regions, self.device, torch.float32)
        if trained and torch.is_grad_enabled() and not conditioning.text.embeds.requires_grad:
            raise ConfigError(
                "train_text_encoder is on, but the conditioner returned embeddings without gradients. Build its "
                "prompt encoder without a cache and with gradients."
            )
        return conditioning

    # The optimizer step.

    def configure_optimizers(self) -> Any:
        optimizer = apply_lr_factors(self._make_optimizer(parameter_groups(self, self._lr_factors)))
        if self._make_lr_scheduler is None:
            return optimizer
        schedule = {"scheduler": self._make_lr_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip by the global norm, once per optimizer step; the last look before the weights change."""
        limit = float("inf") if gradient_clip_val is None else float(gradient_clip_val)
        norm = nn.utils.clip_grad_norm_([p for p in self.parameters() if p.grad is not None], limit)
        group = optimizer.param_groups[0]
        rate = group["lr"] / group.get("lr_factor", 1.0)
        scaled = isinstance(self.trainer.precision_plugin, ScaledPrecision)
        self.watch.check(whole_of(norm), learning_rate=rate, trainer=self.trainer, scaled=scaled)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None and self.watch.skipped_in_a_row == 0:
            self.ema.update()

    # Set-up.

    def configure_model(self) -> None:
        shard(self.unet, self.trainer.strategy, self.trainer.world_size)  # type: ignore[arg-type]

    def on_fit_start(self) -> None:
        self.watch = StepWatch()
        for network in self._frozen:
            network.to(self.device)  # type: ignore[arg-type]
        optimizer = self.trainer.optimizers[0]
        if is_schedule_free(optimizer):
            self.ema = ScheduleFreeAverage(self.trained, optimizer)
        elif self.ema_decay is not None:
            self.ema = WeightAverage(self.trained, self.ema_decay)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout layers know the global stream only. Seeding it per batch makes a resumed run draw the same numbers.
        trainer = self.trainer
        part = batch_idx % trainer.accumulate_grad_batches
        self.watch.open = True
        self._mean_size = self._data.piece(batch_idx)[1]
        torch.manual_seed(derive_seed(self.seed, "layers", trainer.global_step, part, trainer.global_rank))


def _check(module: DiffusionModule) -> None:
    problems = []
    odd = sorted({str(p.dtype) for p in module.parameters() if p.requires_grad and p.dtype != torch.float32})
    if odd:
        problems.append(
            f"weights to be trained must be float32, got {', '.join(odd)}: load the model in float32 and "
            "choose precision bf16-mixed for speed"
        )
    if not 0.0 <= module.prompt_dropout <= 1.0:
        problems.append(f"prompt_dropout must lie in [0, 1], got {module.prompt_dropout}")
    if module.snr_gamma is not None and module.snr_gamma <= 0:
        problems.append(f"snr_gamma must be positive or null, got {module.snr_gamma}")
    if problems:
        raise ConfigError("The training cannot start: " + "; ".join(problems) + ".")
