"""One training step of a latent diffusion model.

The flow:  Batch -> Conditioning -> Noise -> Predict -> Loss, then the optimizer step.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mamoe.diffusion.levels import NoiseLevels
from mamoe.diffusion.losses import Denoised
from mamoe.diffusion.parameterization import noised
from mamoe.diffusion.schedules import grows_with_size
from mamoe.errors import ConfigError, NonFiniteLossError
from mamoe.machine.compiling import compiled_if_it_works
from mamoe.machine.transfers import sent, works_ahead
from mamoe.methods.lora import to_channels_last
from mamoe.models.backbones import pyramid_of
from mamoe.models.blocks.block import blocks_of
from mamoe.models.control.call import control_input, control_of, predict
from mamoe.models.experts.moe import prepare_experts
from mamoe.randomness import derive_seed, seed_streams
from mamoe.training.optim import apply_lr_factors, parameter_groups
from mamoe.training.optim.clipping import divisor, global_norm
from mamoe.training.optim.ema import AveragedWeights, ScheduleFreeAverage, WeightAverage, is_schedule_free
from mamoe.training.optim.rates import Rates
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.loss_scale import ScaledPrecision
from mamoe.training.scale.sharding import shard, whole_of
from mamoe.training.step.ahead import Noise, NoiseAhead, Shape
from mamoe.training.step.draws import Draws, posterior_noise, training_draws
from mamoe.training.step.finite import StepWatch, leaves_out
from mamoe.training.step.latents import moments_of
from mamoe.training.step.parts import Networks, Objective, Optimization
from mamoe.training.step.recorded import recorded_if_it_works, uncached_autocast, unrecorded
from mamoe.training.step.timesteps import Places, TimestepKind
from mamoe.vocabulary.batch import Batch, RegionBatch
from mamoe.vocabulary.conditioning import Conditioning

log = logging.getLogger(__name__)


class DiffusionModule(LightningModule):
    """Trains ``unet`` (and on request the text encoder) to undo noise; autoencoder and schedule stay as they are.

    Args:
        networks: what is trained, and the frozen ones around it.
        objective: what is minimised.
        optimization: how the weights move.
        seed: every draw derives from it.
    """

    def __init__(self, networks: Networks, objective: Objective, optimization: Optimization, *, seed: int = 0) -> None:
        super().__init__()
        unet, vae, text_encoder = networks.unet, networks.vae, networks.text_encoder
        self.unet = to_channels_last(unet) if networks.channels_last else unet
        if networks.gradient_checkpointing:
            unet.enable_gradient_checkpointing()  # type: ignore[operator]
        # A tuple hides the frozen networks from nn.Module, so that they are neither trained, saved nor synchronised.
        frozen = ((vae,) if networks.train_text_encoder else (vae, text_encoder)) + tuple(objective.loss_networks)
        self._frozen = tuple(network for network in frozen if network is not None)
        for network in self._frozen:
            network.requires_grad_(False).eval()
        if networks.train_text_encoder:
            assert text_encoder is not None, "a text encoder that is trained is there"
            self.text_encoder = text_encoder
        self.train()  # from_pretrained hands networks over in evaluation mode
        self._vae, self.scaling, self.adapter_alone = (vae,), networks.scaling, networks.adapter_alone
        self.originals = dict(networks.originals)  # no weights of the module: they stay on the host
        self.conditioner = networks.conditioner
        self.levels, self._scheduler = NoiseLevels.of(objective.scheduler), objective.scheduler
        self._levels_by_size: dict[int, NoiseLevels] = {}
        self.loss, self.weighting, self.timesteps = objective.loss, objective.weighting, objective.timesteps
        self.prompt_dropout, self.seed = objective.prompt_dropout, seed
        self.ema: AveragedWeights | None = None
        self.watch = StepWatch()
        self._before: Rates | None = None  # what the schedule had set before a step that nobody has looked at
        self._optimization = optimization
        self._compile_as = self._to_compile = networks.compile
        self._weights: list[nn.Parameter] = []  # that learn, once they are where they stay
        self._noise: NoiseAhead | None = None  # where the device works ahead of the host
        self._mean_size: float | None = None  # pictures of a micro-batch, on average over those of a step
        _check(self)

    @property
    def vae(self) -> AutoencoderKL | None:
        return self._vae[0]

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks with weights of their own in a checkpoint, by folder name."""
        return {name: module for name, module in self.named_children() if name in ("unet", "text_encoder")}

    @property
    def networks(self) -> list[nn.Module]:
        """Every network that is on the device in a step, each once."""
        return [*self.trained.values(), *dict.fromkeys(self._frozen)]  # type: ignore[list-item]

    # The loss of a batch.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._losses(batch, batch_idx)
        self.watch.add(loss, batch)
        # Lightning averages over the micro-batches; where they are pieces of unequal size, each picture counts alike.
        return loss.sum() / (self._mean_size or len(loss))

    def _losses(self, batch: Batch, batch_idx: int) -> Float[Tensor, "B"]:
        # Batch.
        epoch, index = batch.epoch.tolist(), batch.index.tolist()
        latents = self.encode(batch)
        shape = tuple(latents.shape[1:])
        drawn = self._drawn_ahead(batch, shape)  # type: ignore[arg-type]
        draws = training_draws(
            self.seed,
            epoch,
            index,
            shape,  # type: ignore[arg-type]
            len(self.levels),
            self.prompt_dropout,
            sampling=self.timesteps,
            places=self._places(batch_idx) if self.timesteps.kind is TimestepKind.STRATIFIED else None,
            noise=None if drawn is None else drawn[1],
        )
        return self.loss_per_image(latents, batch.regions, draws, batch.cell_weight, step=self.global_step)

    def loss_per_image(
        self,
        latents: Float[Tensor, "B C h w"],
        regions: RegionBatch,
        draws: Draws,
        cell_weight: Float[Tensor, "B h w"] | None = None,
        step: int | None = None,
    ) -> Float[Tensor, "B"]:
        """The weighted loss of every picture, float32; ``step`` is None for pictures that nothing is learned from.

        ``draws`` lie on the host, everything else on the device.
        """
        # Conditioning.
        regions = regions.drop(draws.dropped)
        conditioning, control = self._condition(regions), self._control(regions)

        # Noise.
        levels = self._levels_for((latents.shape[2], latents.shape[3]))
        alpha, sigma = (sent(x, latents.device) for x in levels.at(draws.timesteps))
        told = sent(levels.told_at(draws.timesteps), latents.device)
        draws = draws.to(latents.device)
        noisy = noised(latents, draws.noise, alpha, sigma)

        # Predict.
        output = predict(self.unet, noisy, told, conditioning.unet_inputs(), control)

        # Loss.
        denoised = Denoised(
            prediction=self.levels.prediction,
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
            weighting=self.weighting,
        )
        return self.loss(denoised)

    def _levels_for(self, size: tuple[int, int]) -> NoiseLevels:
        """The noise levels of latents of ``size`` (h, w): all the same, unless the schedule grows with the picture."""
        if not grows_with_size(self._scheduler.config):
            return self.levels
        patches = size[0] * size[1] // 4 ** pyramid_of(self.unet).skipped
        if patches not in self._levels_by_size:
            self._levels_by_size[patches] = NoiseLevels.of(self._scheduler, patches)
        return self._levels_by_size[patches]

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
        epoch, index, shape = batch.epoch.tolist(), batch.index.tolist(), tuple(mean.shape[1:])
        drawn = self._drawn_ahead(batch, shape)  # type: ignore[arg-type]
        noise = posterior_noise(self.seed, epoch, index, shape) if drawn is None else drawn[0]  # type: ignore[arg-type]
        return self.scaling.scaled(mean + std * sent(noise, mean.device))

    def _drawn_ahead(self, batch: Batch, shape: Shape) -> Noise | None:
        if self._noise is None:
            return None
        return self._noise.of(list(zip(batch.epoch.tolist(), batch.index.tolist(), strict=True)), shape)

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
            conditioning = self.conditioner(regions, device=self.device, dtype=torch.float32)
        if trained and torch.is_grad_enabled() and not conditioning.text.embeds.requires_grad:
            raise ConfigError(
                "train_text_encoder is on, but the conditioner returned embeddings without gradients. Build its "
                "prompt encoder without a cache and with gradients."
            )
        return conditioning

    def on_before_backward(self, loss: Tensor) -> None:
        if self._noise is not None:  # autograd's own thread orders the backward pass, while this one waits
            self._noise.begin()

    # The optimizer step.

    def configure_optimizers(self) -> Any:
        _check(self)  # again: somebody may have let weights train that were put into fewer bits as frozen ones
        plan = self._optimization
        optimizer = apply_lr_factors(plan.optimizer(parameter_groups(self, plan.lr_factors)))
        if plan.lr_scheduler is None:
            return optimizer
        schedule = {"scheduler": plan.lr_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip by the global norm, once per optimizer step; the last look before the weights change."""
        norm = global_norm([gradient for p in self._weights if (gradient := p.grad) is not None])
        whole, ours = whole_of(norm), self.trainer.optimizers[0]
        most = None if gradient_clip_val is None else float(gradient_clip_val)
        group = ours.param_groups[0]
        rate = group["lr"] / group.get("lr_factor", 1.0)
        if self._looks_later(ours):
            self.look()
            self._before = Rates(ours, self._schedule)
            # Both are read by the optimizer's own kernels, which spares a pass over all gradients.
            ours.grad_scale = None if most is None else divisor(whole, most)  # type: ignore[attr-defined]
            ours.found_inf = self.watch.look_later(whole, learning_rate=rate, trainer=self.trainer)  # type: ignore[attr-defined]
        else:
            if most is not None and self._clips(whole, most):
                nn.utils.clip_grads_with_norm_(self._weights, most, norm)
            scaled = isinstance(self.trainer.precision_plugin, ScaledPrecision)
            self.watch.check(whole, learning_rate=rate, trainer=self.trainer, scaled=scaled)

    def _clips(self, norm: Tensor, most: float) -> bool:
        """Whether clipping may change gradients of this norm; yes where the host would have to wait for it."""
        return works_ahead(self.device) or not bool(most / (norm + 1e-6) >= 1)  # as clip_grads_with_norm_ reckons

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None and self.watch.skipped_in_a_row == 0 and not self.watch.unseen:
            self.ema.update()

    def look(self) -> None:
        """Look at the last step if nobody has; to be called before what was learned is read. Waits for the device.

        Raises:
            NonFiniteLossError: it was not finite; weights, average, optimizer and schedule are those before it.
        """
        if not self.watch.unseen:
            return
        try:
            self.watch.look(self.trainer)
        except NonFiniteLossError:
            assert self._before is not None
            self._before.put_back()
            raise
        if self.ema is not None:
            self.ema.update()

    def _looks_later(self, optimizer: Optimizer) -> bool:
        alone = self.trainer.world_size == 1 and not isinstance(self.trainer.precision_plugin, ScaledPrecision)
        return alone and works_ahead(self.device) and leaves_out(optimizer) and not torch.is_anomaly_enabled()

    @property
    def _schedule(self) -> LRScheduler | None:
        configs = self.trainer.lr_scheduler_configs
        return configs[0].scheduler if configs else None  # type: ignore[return-value]

    # Set-up.

    def configure_model(self) -> None:
        shard(self.unet, self.trainer.strategy, self.trainer.world_size)  # type: ignore[arg-type]

    def on_fit_start(self) -> None:
        self.watch = StepWatch()
        # After a training that ended early, as for lack of memory: the weights and pieces of this one may be others.
        unrecorded(self.unet)
        self._to_compile = self._compile_as
        # Collecting them walks through all modules, which takes the host longer than a block of the network does.
        self._weights = [p for p in self.parameters() if p.requires_grad]
        for network in self._frozen:
            network.to(self.device)  # type: ignore[arg-type]
        prepare_experts(self.unet)
        optimizer, decay = self.trainer.optimizers[0], self._optimization.ema_decay
        if is_schedule_free(optimizer):
            self.ema = ScheduleFreeAverage(self.trained, optimizer)
        elif decay is not None:
            self.ema = WeightAverage(self.trained, decay)

    def on_train_start(self) -> None:
        self._noise = NoiseAhead(self.seed, self._data.pictures()) if works_ahead(self.device) else None

    def on_train_end(self) -> None:
        unrecorded(self.unet)
        # Lightning would move what the optimizer keeps, twice the weights' bytes, to the host, where nobody reads it.
        self.trainer.optimizers = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout layers know the global stream only. Seeding it per batch makes a resumed run draw the same numbers.
        trainer = self.trainer
        self.watch.open = True
        if self._to_compile != "off":
            self._compile(batch, batch_idx)
        part = batch_idx % trainer.accumulate_grad_batches
        self._mean_size = self._data.piece(batch_idx)[1]
        seed_streams(derive_seed(self.seed, "layers", trainer.global_step, part, trainer.global_rank), [self.device])

    def _compile(self, batch: Batch, batch_idx: int) -> None:
        """Compile or record the UNet, or say why not. It is tried on the first batch, whose gradients are dropped."""
        asked, self._to_compile = self._to_compile, "off"
        records = asked in ("graph", "full") and self._can_record()

        def trial() -> None:
            with self.trainer.precision_plugin.forward_context():
                with uncached_autocast(self.device) if records else nullcontext():  # the compiler minds
                    loss = self._losses(batch, batch_idx).sum()
            torch.autograd.grad(loss, self._weights, allow_unused=True)

        if asked != "graph":
            parts = blocks_of(self.unet) if asked == "blocks" else [self.unet]
            if (problem := compiled_if_it_works(parts, trial)) is not None:
                log.warning("trainer.compile=%s does not work here, the network is not compiled: %s", asked, problem)
                return
        if records:
            accumulated = self.trainer.accumulate_grad_batches > 1
            problem = recorded_if_it_works(self.unet, trial, added_up=accumulated)
        elif asked == "graph":
            problem = "that takes a GPU and one process, and nobody who looks for anomalies meanwhile"
        else:
            return
        if problem is not None:
            log.warning("trainer.compile=%s: steps are not recorded: %s", asked, problem)

    def _can_record(self) -> bool:
        # Looking for anomalies reads every gradient on the host.
        return self.device.type == "cuda" and self.trainer.world_size == 1 and not torch.is_anomaly_enabled()


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
    if problems:
        raise ConfigError("The training cannot start: " + "; ".join(problems) + ".")
