"""Trains the transformer of the tiny base `tiny_dit` for as many seconds as there are.

    mamoe scenes data/close_ups --domain close_ups --train 6000 --val 64 --test 0 --height 64 --width 64
    mamoe scenes data/broad --domain broad --train 3000 --val 64 --test 0
    python examples/train_tiny_dit.py build/tiny_dit --close-ups data/close_ups --streets data/broad --seconds 12488

Autoencoder and text encoder are those of `tiny`, as they are: pictures and captions are encoded once and stay in
memory. The transformer is PixArt's, small; it learns a flow (noise minus picture), first close-ups at 64x64 for the
words, then streets as well. Learning rate and mixture follow the clock. Every few minutes the averaged weights are
written to the folder in half precision, and beside it `<folder>.state.safetensors`, from which the same command goes
on; what was encoded stays there too. `--start` begins with the transformer of another folder, which knows the words.
It runs on a GPU if there is one; there take batches twenty times as large.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from finish_tiny_base import PROMPT_DROPOUT, Averaged, latents_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mamoe.bases.pretrained import BaseModel, load_base
from mamoe.bases.tiny import new_transformer
from mamoe.commands.new_base import read_pictures
from mamoe.data.folder.prompts import read_prompts_csv
from mamoe.diffusion.schedules import make_flow
from mamoe.machine.precision import autocast_where_faster
from mamoe.models.latents import LatentScaling
from mamoe.training.optim.muon import make_muon

WORDS_ALONE = 0.25  # of the time close-ups alone; then one step in four
PADDED = 0.125  # of the batches: both is read later, and 77 tokens cost more than what they describe
WARM_UP, DECAY = 50, 0.998


class PlainAttention:
    """Attention as three products: on a CPU in bfloat16 torch's fused kernel takes several times as long backwards."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)
        if attention_mask is not None:
            scores = scores + attention_mask.unsqueeze(1).to(scores.dtype)
        with torch.autocast(scores.device.type, enabled=False):
            mixed = scores.softmax(dim=3) @ value
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Pictures and captions of some folders, the empty caption last."""

    latents: Tensor  # f16[n C h w], as the network knows them
    texts: Tensor  # bf16[n+1 77 D], padded
    words: Tensor  # i64[n+1], tokens of each caption with its begin and its end

    @classmethod
    def kept(cls, base: BaseModel, folders: Sequence[Path], file: Path, device: torch.device) -> Encoded:
        """Those of the folders, from ``file`` where an earlier call left them; the words' count stays on the host."""
        if not file.exists():
            found = cls.of(base, folders, device)
            save_file({name: own.cpu().contiguous() for name, own in vars(found).items()}, file)
        own = load_file(file)
        return cls(latents=own["latents"].to(device), texts=own["texts"].to(device), words=own["words"])

    @classmethod
    @torch.no_grad()
    def of(cls, base: BaseModel, folders: Sequence[Path], device: torch.device) -> Encoded:
        captions = []
        for folder in folders:
            prompts = read_prompts_csv(folder / "prompts_train.csv")
            captions += [prompts[key] for key in sorted(prompts)]
        captions.append("")
        told = base.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(lambda folder: read_pictures(folder / "images" / "train"), folders))
        text_encoder, ids = base.text_encoder.to(device), told.input_ids.to(device)
        with autocast_where_faster(device.type, training=False):
            texts = [text_encoder(input_ids=part).last_hidden_state.bfloat16() for part in ids.split(64)]
            latents = [
                latents_of(base.vae, torch.from_numpy(own).to(device).permute(0, 3, 1, 2)).half() for own in pictures
            ]
        return cls(latents=torch.cat(latents), texts=torch.cat(texts), words=told.attention_mask.sum(1))


def loss_of(network: nn.Module, own: Encoded, batch: int, spread: float) -> Tensor:
    """The flow's loss on pictures of one kind; some batches read the padding behind the captions too."""
    device, which = own.latents.device, torch.randint(len(own.latents), (batch,))
    clean = own.latents[which.to(device)].float()
    clean = clean + spread * torch.randn_like(clean)
    noise = torch.randn_like(clean)
    sigma = torch.sigmoid(1.2 * torch.randn(batch, 1, 1, 1, device=device))
    told = torch.where(torch.rand(batch) < PROMPT_DROPOUT, len(own.words) - 1, which)
    words, texts = own.words[told], own.texts[told.to(device)]
    if torch.rand(()) > PADDED:
        texts = texts[:, : words.max()]
        mask = (torch.arange(texts.shape[1]) < words[:, None]).float().to(device)
    else:
        mask = None
    with autocast_where_faster(device.type, training=True):
        output = network(
            (1 - sigma) * clean + sigma * noise,
            encoder_hidden_states=texts.float(),
            encoder_attention_mask=mask,
            timestep=1000 * sigma.flatten(),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.float()
    return F.mse_loss(output, noise - clean)


def write_base(folder: Path, network: PixArtTransformer2DModel, averaged: Averaged) -> None:
    """The averaged weights in half precision; the parts of `tiny` are not repeated."""
    copy = PixArtTransformer2DModel.from_config(network.config)
    copy.load_state_dict(network.state_dict())
    for weight, mean in zip(copy.parameters(), averaged.means, strict=True):
        weight.data.copy_(mean)
    copy.half().save_pretrained(folder / "transformer")
    make_flow().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "PixArtSigmaPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_state(path: Path, network: nn.Module, averaged: Averaged, seconds: float) -> None:
    names = [name for name, _ in network.named_parameters()]
    tensors = {f"weight.{n}": w.detach().contiguous() for n, w in zip(names, averaged.weights, strict=True)}
    tensors |= {f"mean.{n}": m.contiguous() for n, m in zip(names, averaged.means, strict=True)}
    part = path.with_suffix(".part")
    save_file(tensors, part, {"seconds": str(seconds), "steps": str(averaged.steps)})
    part.replace(path)


def read_state(path: Path, network: nn.Module, averaged: Averaged) -> float:
    """Puts the weights in place; returns the seconds they were trained."""
    with safe_open(path, "pt") as file, torch.no_grad():
        for (name, weight), mean in zip(network.named_parameters(), averaged.means, strict=True):
            weight.copy_(file.get_tensor(f"weight.{name}"))
            mean.copy_(file.get_tensor(f"mean.{name}"))
        said = file.metadata()
    averaged.steps = int(said["steps"])
    return float(said["seconds"])


def train(options: argparse.Namespace) -> None:
    base, device = load_base("package:tiny"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    kinds = [
        Encoded.kept(base, folders, options.out.with_name(f"{options.out.name}.{name}.safetensors"), device)
        for name, folders in (("close_ups", options.close_ups), ("streets", options.streets))
    ]
    print([len(kind.latents) for kind in kinds], "pictures encoded", flush=True)
    torch.manual_seed(options.seed)
    network = new_transformer(base.vae.config["latent_channels"], base.text_encoder.config.hidden_size)
    if options.start is not None:
        network.load_state_dict(PixArtTransformer2DModel.from_pretrained(options.start).state_dict())
    network = network.to(device).train()
    if device.type == "cpu":
        network.set_attn_processor(PlainAttention())
    averaged = Averaged([network], DECAY)
    state = options.out.with_name(options.out.name + ".state.safetensors")
    before = read_state(state, network, averaged) if state.exists() else 0.0
    tables = [p for n, p in network.named_parameters() if "scale_shift_table" in n]
    others = [p for n, p in network.named_parameters() if "scale_shift_table" not in n]
    optimizer = make_muon([{"params": others}, {"params": tables, "tables": True}], lr=options.rate, betas=(0.9, 0.99))
    spread = math.exp(-2.5) * LatentScaling.of(base.vae).factor  # the posterior's width, which is a constant
    began, told, written, steps = time.monotonic(), 0.0, time.monotonic(), 0
    shown = torch.full((2,), math.nan, device=device)
    while (spent := before + time.monotonic() - began) < options.seconds:
        share = spent / options.seconds
        rate = options.rate * min(1.0, (steps + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        kind = 0 if (share < WORDS_ALONE and options.start is None) or steps % 4 == 0 else 1
        loss = loss_of(network, kinds[kind], options.batch[kind], spread)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(averaged.weights, 1.0, foreach=True)
        optimizer.step()
        averaged.update()
        steps += 1
        now = loss.detach()
        shown[kind] = torch.where(shown[kind].isnan(), now, torch.lerp(shown[kind], now, 0.02))
        if time.monotonic() - told > 20:
            told = time.monotonic()
            of_words, of_streets = shown.tolist()
            print(
                f"{spent:.0f} s: step {averaged.steps}, rate {rate:.1e}, losses {of_words:.4f} {of_streets:.4f}",
                flush=True,
            )
        if time.monotonic() - written > options.every:
            written = time.monotonic()
            write_base(options.out, network, averaged)
            write_state(state, network, averaged, spent)
    write_base(options.out, network, averaged)
    write_state(state, network, averaged, options.seconds)
    print(f"{averaged.steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--close-ups", type=Path, nargs="+", required=True, help="folders that `mamoe scenes` made")
    parser.add_argument("--streets", type=Path, nargs="+", required=True, help="others, of whole streets")
    parser.add_argument("--start", type=Path, help="folder of a transformer to begin with")
    parser.add_argument("--seconds", type=float, default=12488, help="of training, all calls together")
    parser.add_argument("--every", type=float, default=240, help="seconds between two states")
    parser.add_argument("--batch", type=int, nargs=2, default=[48, 16], help="close-ups, streets a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning, at its highest")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
