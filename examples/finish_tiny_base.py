"""Trains the tiny base model on for as many seconds as there are, on a GPU if there is one.

    mamoe scenes data/broad --domain broad --train 6000 --val 64 --test 0
    mamoe scenes data/close_ups --domain close_ups --train 12000 --val 64 --test 0 --height 64 --width 64
    python examples/finish_tiny_base.py autoencoder build/finished --pictures data/broad data/close_ups --seconds 120
    python examples/finish_tiny_base.py unet build/finished --pictures data/broad data/close_ups --seconds 300

`autoencoder` teaches the autoencoder to draw pictures again. Its latents may move by a fraction of their own width, so
that UNets trained on those of before go on from there; with `--drift inf` the decoder alone learns and they stay
what they are. `unet` teaches the UNet; the text encoder stays as it is, because `tiny_dit` reads the same one. Beside
whole pictures and their captions it sees pieces of the larger ones, told what is in them ("a red car, road"), so that
it knows small things by few words.
Both begin with what the folder holds already, else with the model that ships, and write what they trained there,
averaged, in half precision. Everything stays in the device's memory, so that a small network keeps a large GPU busy;
the learning rate falls with the clock.
"""

from __future__ import annotations

import argparse
import functools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mamoe.bases.pretrained import load_base, load_vae
from mamoe.bases.shipped import resolved
from mamoe.commands.new_base import read_pictures
from mamoe.data.folder.listing import listed
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.machine.precision import autocast_where_faster
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.models.latents import LatentScaling
from mamoe.runs.source import Source
from mamoe.training.autoencoder import reconstruction_psnr
from mamoe.vocabulary.panoptic import PanopticMap, decode_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

PROMPT_DROPOUT = 0.1
PIECE = 8  # cells a piece is wide and high
PIECES = 4  # of every larger picture
CELL = 8  # pixels
SHOWS = 2 * CELL * CELL  # pixels of a segment from which on a piece shows it


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
    """Adam for some seconds on losses that take turns, each at least once; leaves averaged weights in the networks."""
    averaged = Averaged(networks, decay)
    fused = averaged.weights[0].is_cuda
    optimizer = torch.optim.AdamW(averaged.weights, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=fused)
    began, step, told, shown = time.monotonic(), 0, 0.0, torch.zeros(len(losses))
    while (share := min(1.0, (time.monotonic() - began) / seconds)) < 1 or step < len(losses):
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


def names_of(folder: Path) -> list[str]:
    """The training pictures of a folder, in the order of :func:`read_pictures`."""
    return sorted(listed(folder / "images" / "train", (".png",)).names)


def captions_of(folder: Path) -> list[str]:
    """A caption a picture.

    Raises:
        DatasetError: a picture has none.
    """
    path = folder / "prompts_train.csv"
    captions, names = read_prompts_csv(path), names_of(folder)
    if lacking := [name for name in names if name not in captions]:
        raise DatasetError(f"{path} has no caption of {len(lacking)} of {len(names)} pictures, such as {lacking[0]}.")
    return [captions[name] for name in names]


def pieces_of(folder: Path) -> tuple[Tensor, list[str]]:
    """Where pieces of a folder's pictures lie, i64 [M 3] (picture, row, column; in cells), and what they show.

    Every second one is laid about a segment that has a prompt of its own. What a piece shows is named, the largest
    first: by that prompt, else by its class.
    """
    rng = np.random.default_rng(0)
    taxonomy, prompts = Taxonomy.load("scenes"), read_instance_prompts(folder / "instance_prompts_train.json")
    places, texts = [], []
    for number, name in enumerate(names_of(folder)):
        panoptic, own = decode_panoptic(read_picture(folder / "panoptic" / "train" / name)), prompts.get(name, {})
        for turn in range(PIECES):
            place = _place(panoptic, sorted(own) if turn % 2 else [], rng)
            corner, opposite = (CELL * place).tolist(), (CELL * (place + PIECE)).tolist()
            window = tuple(slice(a, b) for a, b in zip(corner, opposite, strict=True))
            places.append([number, *place.tolist()])
            texts.append(_shown(panoptic.segment_id[window], panoptic.class_id[window], own, taxonomy))
    return torch.tensor(places), texts


def _place(panoptic: PanopticMap, segments: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Row and column of a piece in cells: about one of ``segments``, anywhere if there are none."""
    room = np.array(panoptic.size) // CELL - PIECE
    if not segments:
        return rng.integers(room + 1)
    pixels = np.argwhere(panoptic.segment_id == rng.choice(segments))
    if not len(pixels):
        return rng.integers(room + 1)
    return np.clip(pixels[rng.integers(len(pixels))] // CELL - rng.integers(PIECE, size=2), 0, room)


def _shown(segment: np.ndarray, klass: np.ndarray, own: dict[int, str], taxonomy: Taxonomy) -> str:
    ids, first, pixels = np.unique(segment, return_index=True, return_counts=True)
    names = [own.get(int(i)) or taxonomy.prompt_of(int(klass.flat[at])) for i, at in zip(ids, first, strict=True)]
    order = [i for i in np.argsort(-pixels) if pixels[i] >= SHOWS and names[i]]
    return ", ".join(dict.fromkeys(names[i] for i in order))


def finish_unet(
    model: nn.Module,
    pictures: list[Tensor],
    captions: list[list[str]],
    pieces: list[tuple[Tensor, list[str]] | None],
    seconds: float,
    batches: Sequence[int],
) -> None:
    """Teaches the UNet pictures by their captions, and pieces of them by what they show.

    Behind a caption it reads the tokenizer's padding, as Stable Diffusion does; behind the few words of a piece none.
    """
    device = pictures[0].device
    unet = model.unet.to(device).requires_grad_(True).train()
    text = model.text_encoder.to(device).requires_grad_(False).eval()
    signal = model.scheduler.alphas_cumprod.to(device)
    spread = math.exp(-2.5) * LatentScaling.of(model.vae).factor  # the posterior's width, which is a constant
    tokens_of = functools.partial(_token_ids, model.tokenizer, device=device)
    picked: list[tuple[Callable[[Tensor], Tensor], Tensor, int, bool]] = []  # latents, tokens, batch, with padding
    for own, words, cut, batch in zip(pictures, captions, pieces, batches, strict=True):
        latents = latents_of(model.vae, own)
        picked.append((latents.__getitem__, tokens_of(words), batch, True))
        if cut is not None:
            places, texts = cut
            cells = latents.shape[-1] * latents.shape[-2] // PIECE**2
            picked.append((functools.partial(_cut, latents, places.to(device)), tokens_of(texts), batch * cells, False))
    end = model.tokenizer.eos_token_id

    def loss_of(latents: Callable[[Tensor], Tensor], ids: Tensor, batch: int, padded: bool) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            which = torch.randint(len(ids) - 1, (batch,), device=device)
            clean = latents(which)
            clean = clean + spread * torch.randn_like(clean)
            noise = torch.randn_like(clean)
            timestep = torch.randint(len(signal), (batch,), device=device)
            a, b = (root[:, None, None, None] for root in (signal[timestep].sqrt(), (1 - signal[timestep]).sqrt()))
            dropped = torch.rand(batch, device=device) < PROMPT_DROPOUT
            tokens = ids[torch.where(dropped, len(ids) - 1, which)]
            words = None if padded else (tokens == end).cumsum(1) - (tokens == end).int() == 0  # the first end is read
            with autocast_where_faster(device.type, training=True):
                with torch.no_grad():
                    told = text(input_ids=tokens).last_hidden_state
                output = unet(a * clean + b * noise, timestep, told, encoder_attention_mask=words).sample.float()
            return F.mse_loss(output, a * noise - b * clean)

        return loss

    losses = [loss_of(*one) for one in picked]
    train_for(seconds, [unet], 5e-4, losses, decay=0.9995)


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], device: torch.device) -> Tensor:
    """The padded tokens of the texts, and of the empty one behind them."""
    return tokenizer([*texts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)


def _cut(latents: Tensor, places: Tensor, which: Tensor) -> Tensor:
    """Pieces of latents, f32 [B C 8 8]."""
    number, row, column = places[which].T[..., None, None]
    side = torch.arange(PIECE, device=latents.device)
    return latents[number, :, row + side[:, None], column + side].permute(0, 3, 1, 2)


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
        captions = [captions_of(folder) for folder in options.pictures]
        larger = [own.shape[-1] > CELL * PIECE for own in pictures]
        pieces = [pieces_of(folder) if cut else None for folder, cut in zip(options.pictures, larger, strict=True)]
        finish_unet(model, pictures, captions, pieces, options.seconds, batches)
        model.unet.cpu().half().save_pretrained(options.out / "unet")


if __name__ == "__main__":
    main()
