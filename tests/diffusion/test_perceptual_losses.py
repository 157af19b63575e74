"""Losses that look at clean pictures through a frozen network."""

import sys
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from denoised import TEXT_WIDTH, denoised, told
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet

from mamoe.diffusion.levels import NoiseLevels
from mamoe.diffusion.losses import (
    Lpips,
    LpipsNet,
    MinSnr,
    OnLatents,
    OnPictures,
    Perceptual,
    load_latent_lpips,
    load_lpips,
    middle_features,
    mse,
)
from mamoe.diffusion.losses.lpips import linear_weights
from mamoe.diffusion.parameterization import Prediction
from mamoe.errors import ConfigError
from mamoe.randomness import generator_for
from small_models import two_level_unet

LEVELS = NoiseLevels.of(DDPMScheduler(trained_betas=[0.2] * 20))


@pytest.fixture(scope="module")
def unet():
    return two_level_unet(TEXT_WIDTH)


@pytest.fixture(scope="module")
def alex():
    torch.manual_seed(1)
    return alexnet(weights=None).features


@pytest.fixture(scope="module")
def lpips(alex):
    return Lpips(LpipsNet.ALEX, alex, linear_weights(LpipsNet.ALEX))


def decode(latents):
    """A stand-in for an autoencoder, 8 pixels a cell."""
    return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8.0).tanh()


@pytest.fixture(params=["perceptual", "lpips", "latents"])
def loss(request, unet, lpips):
    if request.param == "perceptual":
        return Perceptual(middle_features(unet), LEVELS)
    if request.param == "lpips":
        return OnPictures(lpips, decode, every=1, weight=3.0)
    return OnLatents(lambda a, b: (a - b).abs().mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_right_answer_costs_nothing_and_a_wrong_one_does(loss, prediction):
    perfect = denoised(prediction, output=denoised(prediction).target)
    torch.testing.assert_close(loss(perfect), torch.zeros(3), rtol=0, atol=1e-6)
    assert (loss(denoised(prediction)) > 1e-3).all()


def test_the_gradient_reaches_the_answer_and_nothing_else(loss, unet, lpips):
    output = denoised().output.requires_grad_()
    loss(denoised(output=output, count=3)).sum().backward()
    assert output.grad is not None and (output.grad.flatten(1).norm(dim=1) > 0).all()
    frozen = [p for p in lpips.parameters()]
    assert frozen and not any(p.requires_grad for p in frozen)
    assert all(p.grad is None for p in [*unet.parameters(), *frozen])


def test_a_picture_has_its_own_loss(loss):
    torch.testing.assert_close(loss(denoised(count=3))[:2], loss(denoised(count=2)), rtol=1e-5, atol=1e-7)


def test_min_snr_weighs_the_error_of_the_clean_picture(loss):
    # alpha 0.8 and sigma 0.6: SNR 16/9
    for gamma, weight in ((1.0, 1.0), (5.0, 16 / 9)):
        torch.testing.assert_close(loss(denoised(weighting=MinSnr(gamma))), weight * loss(denoised()))


# Perceptual.


def test_middle_features_are_those_inside_the_whole_network():
    unet = two_level_unet(TEXT_WIDTH)
    features = middle_features(unet)
    seen = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    sample, times, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 7]), torch.randn(2, 5, TEXT_WIDTH)
    unet(sample, times, encoder_hidden_states=text)
    assert torch.equal(features(sample, times, encoder_hidden_states=text).sample, seen[0])
    with torch.no_grad():
        unet.conv_in.weight.add_(1.0)  # training the model leaves its frozen copy alone
    assert torch.equal(features(sample, times, encoder_hidden_states=text).sample, seen[0])
    assert not any(p.requires_grad for p in features.parameters()) and len(unet.up_blocks) == 2


def test_perceptual_closed_form():
    # Through a network that shows its input, noising both alike leaves alpha² of the squared error of x0.
    batch = denoised(Prediction.X0)
    seen = []

    def show(sample, timesteps, **inputs):
        seen.append(timesteps)
        return SimpleNamespace(sample=sample)

    got = Perceptual(show, LEVELS)(batch)  # type: ignore[arg-type]
    times = [int(torch.randint(20, (), generator=generator_for(s, "second timestep"))) for s in batch.seeds]
    assert seen[0].tolist() == seen[1].tolist() == times and len(set(times)) > 1
    torch.testing.assert_close(got, LEVELS.alpha[times] ** 2 * mse(batch))


def test_perceptual_reads_the_global_prompt_alone(unet):
    loss = Perceptual(middle_features(unet), LEVELS)
    torch.testing.assert_close(loss(denoised(conditioning=told(3, own_tokens=4))), loss(denoised()))
    other = told(3)
    other.text.embeds[:] = 1.0
    assert not torch.allclose(loss(denoised(conditioning=other)), loss(denoised()), rtol=1e-3)


def test_perceptual_gives_the_text_encoder_no_gradient(unet):
    conditioning = told(3)
    conditioning.text.embeds.requires_grad_()
    value = Perceptual(middle_features(unet), LEVELS)(denoised(conditioning=conditioning))
    assert not value.requires_grad


# LPIPS.


def test_lpips_is_torchmetrics_lpips(alex, lpips):
    oracle = _LPIPS(net="alex", pnet_rand=True)
    flat = [layer for part in oracle.net.children() for layer in part]
    for own, theirs in zip(alex, flat, strict=False):
        theirs.load_state_dict(own.state_dict())
    a, b = torch.rand(2, 3, 3, 70, 64) * 2.4 - 1.2
    torch.testing.assert_close(lpips(a, b), oracle(a, b).flatten(), rtol=1e-4, atol=1e-7)
    assert lpips(a, a).tolist() == [0.0] * 3


def test_pictures_are_decoded_every_few_steps(lpips):
    loss = OnPictures(lpips, decode, every=3, weight=2.0)
    whole = 2.0 * lpips(decode(denoised().clean_estimate), decode(denoised().clean))
    for step in (0, 3, 6, None):
        torch.testing.assert_close(loss(denoised(step=step)), whole)
    for step in (1, 2, 4):
        assert torch.equal(loss(denoised(step=step)), mse(denoised()))


def test_lpips_reads_weights_from_a_file(tmp_path, alex, lpips):
    names = {f"features.{name}": value for name, value in alex.state_dict().items()}
    save_file(names, tmp_path / "alex.safetensors")
    torch.save({**names, "classifier.1.weight": torch.zeros(1)}, tmp_path / "alex.pth")
    a, b = torch.rand(2, 1, 3, 64, 64)
    for name in ("alex.safetensors", "alex.pth"):
        assert torch.equal(load_lpips(LpipsNet.ALEX, tmp_path / name)(a, b), lpips(a, b))


@pytest.mark.parametrize("content", [None, b"no weights"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_lpips_without_its_weights_says_what_to_do(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"torchvision's vgg16 and loss.weights={path}.*loss.weights=FILE"):
        load_lpips(LpipsNet.VGG, path)


def test_lpips_of_another_network_is_refused(tmp_path, alex):
    save_file({f"features.{name}": value for name, value in alex.state_dict().items()}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="vgg16"):
        load_lpips(LpipsNet.VGG, tmp_path / "a.safetensors")


def test_lpips_offline(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConfigError, match=r"torchvision's download.*no route to host.*loss.weights=FILE"):
        load_lpips(LpipsNet.ALEX)


# Latent LPIPS.


class Installed(nn.Module):
    """What a user may have installed: a distance that draws from the global stream."""

    def __init__(self, *, encoder, augment, verbose):
        super().__init__()
        if encoder == "sd15":
            raise OSError("no weights")
        self.augment, self.scale = augment, nn.Parameter(torch.ones(()))

    def forward(self, a, b, ensembling=True):
        assert ensembling == (self.augment is not None)
        noise = torch.rand(()) if ensembling else 1.0
        return self.scale * noise * (a - b).square().mean((1, 2, 3), keepdim=True)


def test_an_installed_latent_lpips_plugs_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "elatentlpips", SimpleNamespace(ELatentLPIPS=Installed))
    network = load_latent_lpips("sd21", "bg")
    assert not network.scale.requires_grad
    loss = OnLatents(network)
    torch.manual_seed(1)
    first = loss(denoised())
    after = torch.rand(())
    torch.manual_seed(2)
    assert torch.equal(loss(denoised()), first)  # whatever the global stream is
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)  # and it is left alone
    with pytest.raises(ConfigError, match="cannot be set up: no weights"):
        load_latent_lpips("sd15", None)


def test_a_latent_lpips_that_is_not_installed_is_named_with_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "elatentlpips", None)
    with pytest.raises(ConfigError, match=r"pip install elatentlpips.*CC BY-NC"):
        load_latent_lpips("sd21", None)
