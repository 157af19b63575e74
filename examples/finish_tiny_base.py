"""Trains the tiny base model on for as many seconds as there are, on a GPU if there is one.

    mamoe scenes data/broad --domain broad --train 6000 --val 64 --test 0
    mamoe scenes data/close_ups --domain close_ups --train 12000 --val 64 --test 0 --height 64 --width 64
    python examples/finish_tiny_base.py autoencoder build/finished --pictures data/broad data/close_ups --seconds 120
    python examples/finish_tiny_base.py unet build/finished --pictures data/broad data/close_ups --seconds 300

`autoencoder` teaches the autoencoder to draw pictures again. Its latents may move by a fraction of their own width, so
that UNets trained on those of before go on from there; with `--drift inf` the decoder alone learns and they stay
what they are. `unet` teaches the UNet; the text encoder stays as it is, because `tiny_dit` reads the same one.
Both begin with what the folder holds already, else with the model that ships, and write what they trained there,
averaged, in half precision. Everything stays in the device's memory, so that a small network keeps a large GPU busy;
the learning rate falls with the clock.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamoe.bases.pretrained import load_base, load_vae
from mamoe.bases.shipped import resolved
from mamoe.commands.new_base import read_pictures
from mamoe.data.folder.prompts import read_prompts_csv
from mamoe.machine.precision import autocast_where_faster
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.models.latents import LatentScaling
from mamoe.runs.source import Source
from mamoe.training.autoencoder import reconstruction_psnr

PROMPT_DROPOUT = 0.1


class Averaged:
    """Networks in training, and copies whose weights are a moving average of theirs."""

    def __init__(self, networks: Sequence[nn.Module], decay: float) -> None:
        self.decay = decay
        self.weights = [p for network in networks for p in network.parameters() if p.requires_grad]
        self.means = [p.detach().clone() for p in self.weights]
        self.steps = 0

    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.means, [p.detach() for p in self.weights], 1 - decay)

    def adopt(self) -> None:
        for weight, mean in zip(self.weights, self.means, strict=True):
            weight.data.copy_(mean)


def train_for(
    seconds: float, networks: Sequence[nn.Module], rate: float, losses: Sequence[Callable[[], Tensor]], decay: float
) -> None:
    """Adam for some seconds on losses that take turns; leaves the averaged weights in the networks."""
    averaged = Averaged(networks, decay)
    fused = averaged.weights[0].is_cuda
    optimizer = torch.optim.AdamW(averaged.weights, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=fused)
    began, step, told, shown = time.monotonic(), 0, 0.0, torch.zeros(len(losses))
    while (share := (time.monotonic() - began) / seconds) < 1:
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        which = step % len(losses)
        loss = losses[which]()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(averaged.weights, 1.0, foreach=True)
        optimizer.step()
        averaged.update()
        step += 1
        if step % 50 < len(losses):
            shown[which] = loss.detach().cpu()
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{told - began:.0f} s: step {step}, losses {[round(float(one), 4) for one in shown]}", flush=True)
    averaged.adopt()
    print(f"{step} steps")


def finish_autoencoder(model: nn.Module, pictures: list[Tensor], seconds: float, batch: int, drift: float) -> None:
    """Teaches the decoder, and the encoder unless ``drift``, the price of moving latents, is infinite."""
    device = pictures[0].device
    # Channels as they are: last, a CPU takes ten times as long for the gradient of group norms in bfloat16.
    vae = model.vae.to(device, memory_format=torch.contiguous_format).train()
    before = deepcopy(vae)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    vae.encoder.requires_grad_(math.isfinite(drift))  # not quant_conv, which holds the posterior's width
    scale = LatentScaling.of(vae).factor
    side = 64

    def crops(own: Tensor) -> Tensor:
        """Random crops, half of them mirrored; a quarter have other colours, so that it is not the towns' alone."""
        count, _, height, width = own.shape
        which = torch.randint(count, (batch, 1, 1), device=device)
        rows = (
            torch.randint(height - side + 1, (batch, 1, 1), device=device) + torch.arange(side, device=device)[:, None]
        )
        columns = torch.randint(width - side + 1, (batch, 1, 1), device=device) + torch.arange(side, device=device)
        x = own[which, :, rows, columns].permute(0, 3, 1, 2).float() / 127.5 - 1
        x = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, x.flip(3), x)
        others = x.roll(1, dims=1) * torch.empty(batch, 3, 1, 1, device=device).uniform_(0.3, 1.0)
        return torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.25, others, x)

    def loss_of(own: Tensor) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            x = crops(own)
            with autocast_where_faster(device.type, training=True):
                posterior = posterior_of(vae, x)
                error = decoded(vae, posterior.sample()).float() - x
                loss = error.abs().mean() + 3 * error.square().mean()
                if math.isfinite(drift):
                    with torch.no_grad():
                        mean = posterior_of(before, x).mean
                    loss = loss + drift * (scale * (posterior.mean - mean).float()).square().mean()
            return loss

        return loss

    train_for(seconds, [vae], 8e-4, [loss_of(own) for own in pictures], decay=0.999)
    vae.requires_grad_(True)


@torch.no_grad()
def latents_of(vae: nn.Module, pictures: Tensor) -> Tensor:
    """The scaled means of the posterior, f32."""
    vae = vae.to(pictures.device)
    with autocast_where_faster(pictures.device.type, training=False):
        means = [posterior_of(vae, part.float() / 127.5 - 1).mean.float() for part in pictures.split(8)]
    return LatentScaling.of(vae).scaled(torch.cat(means))


def finish_unet(
    model: nn.Module, pictures: list[Tensor], captions: list[list[str]], seconds: float, batches: Sequence[int]
) -> None:
    device = pictures[0].device
    unet = model.unet.to(device).requires_grad_(True).train()
    text = model.text_encoder.to(device).requires_grad_(False).eval()
    signal = model.scheduler.alphas_cumprod.to(device)
    spread = math.exp(-2.5) * LatentScaling.of(model.vae).factor  # the posterior's width, which is a constant
    kinds = []
    for own, words in zip(pictures, captions, strict=True):
        ids = model.tokenizer([*words, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        kinds.append((latents_of(model.vae, own), ids.to(device)))

    def loss_of(latents: Tensor, ids: Tensor, batch: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            which = torch.randint(len(latents), (batch,), device=device)
            clean = latents[which]
            clean = clean + spread * torch.randn_like(clean)
            noise = torch.randn_like(clean)
            timestep = torch.randint(len(signal), (batch,), device=device)
            a, b = (root[:, None, None, None] for root in (signal[timestep].sqrt(), (1 - signal[timestep]).sqrt()))
            dropped = torch.rand(batch, device=device) < PROMPT_DROPOUT
            tokens = ids[torch.where(dropped, len(ids) - 1, which)]
            with autocast_where_faster(device.type, training=True):
                with torch.no_grad():
                    told = text(input_ids=tokens).last_hidden_state
                output = unet(a * clean + b * noise, timestep, told).sample.float()
            return F.mse_loss(output, a * noise - b * clean)

        return loss

    losses = [loss_of(latents, ids, batch) for (latents, ids), batch in zip(kinds, batches, strict=True)]
    train_for(seconds, [unet], 5e-4, losses, decay=0.9995)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("autoencoder", "unet"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders that `mamoe scenes` made")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[96], help="pictures a step, one number or one a folder"
    )
    parser.add_argument("--drift", type=float, default=0.1, help="the price of moving latents, by their variance")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not options.out.exists():
        shutil.copytree(resolved("package:tiny"), options.out)
    model = load_base(str(options.out))
    arrays = [read_pictures(folder / "images" / "train") for folder in options.pictures]
    pictures = [torch.from_numpy(own).permute(0, 3, 1, 2).to(device) for own in arrays]
    batches = options.batch * len(pictures) if len(options.batch) == 1 else options.batch
    if options.part == "autoencoder":
        finish_autoencoder(model, pictures, options.seconds, batches[0], options.drift)
        model.vae.cpu().eval()
        before = load_vae(Source(path=str(options.out)))
        for folder in options.pictures:
            own = read_pictures(folder / "images" / "val")
            x = torch.from_numpy(own).permute(0, 3, 1, 2)
            moved = (latents_of(model.vae, x) - latents_of(before, x)).square().mean().sqrt()
            print(
                f"{folder}: {reconstruction_psnr(model.vae, own):.2f} dB, latents moved by {moved:.3f} of their width"
            )
        model.vae.half().save_pretrained(options.out / "vae")
    else:
        prompts = [read_prompts_csv(folder / "prompts_train.csv") for folder in options.pictures]
        captions = [[own[key] for key in sorted(own)] for own in prompts]
        finish_unet(model, pictures, captions, options.seconds, batches)
        model.unet.cpu().half().save_pretrained(options.out / "unet")


if __name__ == "__main__":
    main()
