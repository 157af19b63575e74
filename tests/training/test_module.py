import functools

import pytest
import torch
from training_fakes import CPU, TextTable, batch_of, condition, fit, make_data, make_module, tiny_unet, weights

from mamoe.diffusion.losses import MinSnr, mse_per_image
from mamoe.diffusion.parameterization import Prediction, snr
from mamoe.diffusion.schedules import make_flow, make_scheduler
from mamoe.errors import ConfigError, NonFiniteLossError
from mamoe.runs.weights import read_network
from mamoe.training.step.draws import posterior_noise, training_draws


def losses(module, batch):
    latents = module.encode(batch)
    epoch, index = batch.epoch.tolist(), batch.index.tolist()
    draws = training_draws(module.seed, epoch, index, tuple(latents.shape[1:]), 1000, module.prompt_dropout)
    return module.loss_per_image(latents, batch.regions, draws)


@torch.no_grad()
def test_loss_of_a_picture_does_not_depend_on_its_batch_mates():
    module = make_module(prompt_dropout=0.5)
    together = losses(module, batch_of(1, 2, 3, 4))
    for row, mates in enumerate([(1, 9), (2,), (3, 5, 6), (4, 8)]):
        torch.testing.assert_close(losses(module, batch_of(*mates))[0], together[row], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(losses(module, batch_of(1, 2, 3, 4, epoch=1)), together)


@torch.no_grad()
@pytest.mark.parametrize("prediction", list(Prediction))
def test_loss_is_the_schedulers_own_arithmetic(prediction):
    # diffusers noises the latents and makes the target; only the network is shared.
    flows = prediction is Prediction.FLOW
    scheduler = make_flow(shift=3.0) if flows else make_scheduler(prediction, zero_snr=False)
    module = make_module(scheduler=scheduler, prompt_dropout=0.0, weighting=MinSnr(5.0))
    batch = batch_of(0, 1, 2)
    epoch, index = batch.epoch.tolist(), batch.index.tolist()
    draws = training_draws(5, epoch, index, (4, 8, 8), 1000, 0.0)

    posterior = module.vae.encode(batch.image / 127.5 - 1).latent_dist
    latents = (posterior.mean + posterior.std * posterior_noise(5, epoch, index, (4, 8, 8))) * 0.18215
    told = scheduler.timesteps.flip(0)[draws.timesteps]  # diffusers counts from the noise down
    if flows:
        noisy = scheduler.scale_noise(latents, told, draws.noise)
    else:
        noisy = scheduler.add_noise(latents, draws.noise, draws.timesteps)
    text = TextTable()([prompts[0] for prompts in batch.regions.prompts])
    output = module.unet(noisy, told if flows else draws.timesteps, encoder_hidden_states=text).sample
    target = {
        Prediction.EPSILON: draws.noise,
        Prediction.X0: latents,
        Prediction.V: flows or scheduler.get_velocity(latents, draws.noise, draws.timesteps),
        Prediction.FLOW: draws.noise - latents,
    }[prediction]
    ratio = ((1000 - told) / told).square() if flows else snr(scheduler.alphas_cumprod, draws.timesteps)
    wanted = mse_per_image(output, target) * MinSnr(5.0)(ratio, prediction)
    torch.testing.assert_close(losses(module, batch), wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_dropped_pictures_see_no_prompt():
    dropped, kept = make_module(prompt_dropout=1.0), make_module(prompt_dropout=0.0)
    empty = make_module(prompt_dropout=0.0)
    text = TextTable()
    empty.conditioner = lambda regions, device, dtype: condition(text, regions.null_like(), device, dtype)
    batch = batch_of(0, 1, 2)
    assert torch.equal(losses(dropped, batch), losses(empty, batch))
    assert not torch.allclose(losses(dropped, batch), losses(kept, batch))


def gradients(tmp_path, batch_size, accumulate, clip):
    """Gradients of the first step as the optimizer sees them."""
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            seen["gradients"] = [p.grad.clone() for p in self.param_groups[0]["params"]]
            return loss

    module = make_module(optimizer=lambda parameters: Spy(list(parameters), lr=0.0), lr_scheduler=None)
    settings = {**CPU, "accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    run = tmp_path / f"{batch_size}-{accumulate}-{clip}"
    fit(
        module,
        make_data(16, batch_size),
        run,
        max_steps=1,
        checkpoint_every_n_steps=10,
        trainer=settings,
    )
    return seen["gradients"], module.watch


@pytest.mark.parametrize("clip", [None, 0.01])
def test_accumulating_2_batches_of_4_equals_one_of_8(tmp_path, clip):
    whole, whole_watch = gradients(tmp_path, 8, 1, clip)
    parts, parts_watch = gradients(tmp_path, 4, 2, clip)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    norm = torch.stack([g.norm() for g in parts]).norm().item()
    assert norm == pytest.approx(clip or parts_watch.grad_norm, rel=1e-3)
    assert parts_watch.loss == pytest.approx(whole_watch.loss, rel=1e-5)
    assert parts_watch.grad_norm > 0.02


def test_gradients_within_the_limit_are_not_walked_through(tmp_path, monkeypatch):
    free, watch = gradients(tmp_path, 8, 1, None)
    clipped, _ = gradients(tmp_path, 8, 1, watch.grad_norm * 0.999)
    assert not torch.equal(clipped[0], free[0])
    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", lambda *_: pytest.fail("there is nothing to clip"))
    within, _ = gradients(tmp_path, 8, 1, watch.grad_norm * 1.001)
    assert all(torch.equal(a, b) for a, b in zip(within, free, strict=True))


def test_frozen_networks_stay_and_are_no_part_of_the_module(tmp_path):
    module = make_module()
    text = module._frozen[1]
    before = weights(module.vae), weights(text), weights(module.unet)
    fit(module, make_data(), tmp_path, max_steps=2, checkpoint_every_n_steps=5, trainer=CPU)
    for network, old in zip((module.vae, text), before, strict=False):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())
    assert any(not torch.equal(value, before[2][name]) for name, value in module.unet.state_dict().items())
    assert {name.split(".")[0] for name in module.state_dict()} == {"unet"}
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in module.unet.parameters())


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_stops_before_the_weights_change(tmp_path, poison):
    module = make_module()
    run_step = module.training_step

    def poisoned(batch, batch_idx):
        loss = run_step(batch, batch_idx)
        if batch_idx < 5:
            return loss
        before.update(weights(module.unet))
        if poison == "gradient":
            # d/dw of sqrt(0) is infinite, the value is 0
            return loss + (next(module.unet.parameters()) * 0).sum().abs().sqrt()
        module.watch._losses[-1] = module.watch._losses[-1] * float("nan")
        return loss * float("nan")

    before: dict = {}
    module.training_step = poisoned  # type: ignore[method-assign]
    settings = {**CPU, "accumulate_grad_batches": 2}
    with pytest.raises(NonFiniteLossError, match=r"Step 3: .*\d\d\d\.png.*not changed") as caught:
        fit(module, make_data(), tmp_path, max_steps=9, checkpoint_every_n_steps=2, trainer=settings)
    assert caught.value.exit_code == 4
    assert all(torch.equal(value, before[name]) for name, value in module.unet.state_dict().items())
    kept = read_network(module.unet, tmp_path / "checkpoints" / "step-00000002" / "unet")
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert "Step 3" in (tmp_path / "log.txt").read_text()


def test_text_encoder_trains_on_request_and_needs_gradients(tmp_path):
    text = TextTable()
    before = weights(text)
    module = make_module(
        text_encoder=text, conditioner=functools.partial(condition, text), train_text_encoder=True, prompt_dropout=0.0
    )
    module.training_step(batch_of(0, 1), 0).backward()
    assert text.table.weight.grad is not None and text.table.weight.grad.abs().max() > 0
    assert set(module.trained) == {"unet", "text_encoder"}
    assert all(torch.equal(value, before[name]) for name, value in text.state_dict().items())

    @torch.no_grad()
    def detached(regions, device, dtype):
        return condition(text, regions, device, dtype)

    module = make_module(text_encoder=text, conditioner=detached, train_text_encoder=True)
    with pytest.raises(ConfigError, match="without gradients"):
        module.training_step(batch_of(0, 1), 0)


def test_gradient_checkpointing_and_channels_last_change_no_gradient():
    plain = make_module()
    other = make_module(gradient_checkpointing=True, channels_last=True)
    for module in (plain, other):
        module.training_step(batch_of(0, 1, 2), 0).backward()
    assert other.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_settings_are_checked_together():
    with pytest.raises(ConfigError, match=r"float32, got torch\.bfloat16.*prompt_dropout"):
        make_module(unet=tiny_unet().bfloat16(), prompt_dropout=2.0)
    with pytest.raises(ConfigError, match="snr_gamma must be positive"):
        MinSnr(0.0)
