"""What the caches save: a training step with and without encoded pictures, and prompts encoded together or singly.

    python perf/cache.py [--quick] [--threads 1] [--only tiny|sd21]

A step is: the posterior of every picture, from the autoencoder or from the cache on disk; then forward, mean squared
error and backward of the stock UNet on a 77-token prompt, fp32. Without the cache every picture is encoded alone, as a
training does, so that both give the same bits. Prompts are those of instances (2 to 4 words, unpadded): filling an
empty cache with all of them, beside one run of the text encoder for each, beside reading them from the cache. The
variants take turns, all in processor time; the UNet's part is the same in both steps and is measured once a round. A
ratio is the median of the ratios of the rounds, the first of several left out. ``tiny`` is the tiny base model,
``sd21`` has the architectures of Stable Diffusion 2.1 (random weights), which want 8 GB of memory. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from step import GLOBAL_TOKENS, Case, cases, drop_gradients_when_made, step
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mamoe.bases.pretrained import load_text, load_vae
from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.text import PromptEncoder
from mamoe.data.encoded import LatentCache
from mamoe.data.geometry.joint import Geometry
from mamoe.runs.source import Source
from mamoe.training.step.latents import moments_of
from mamoe.vocabulary.taxonomy import Taxonomy

TINY = Source(path="package:tiny")
SD21_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SD21_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
SIZES, COLOURS = ("small", "large", "long", "old"), ("red", "blue", "green", "white", "black", "yellow", "grey")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """Medians over the rounds."""

    seconds: float  # of a step without the cache
    encoding: float  # share of it that the autoencoder takes
    ratio: float  # of the step with the cache to it
    read: float  # seconds of one picture's posterior from the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRates:
    """Prompts per second, medians over the rounds."""

    single: float
    filled: float
    read: float
    gain: float  # of filling over single runs, in one round


def autoencoder(name: str) -> AutoencoderKL:
    if name == "tiny":
        return load_vae(TINY)
    return AutoencoderKL(**SD21_VAE).to(memory_format=torch.channels_last)  # as load_vae returns it


def text_parts(name: str) -> tuple[CLIPTokenizer, CLIPTextModel]:
    tiny = load_text(TINY)
    if name == "tiny":
        return tiny.tokenizer, tiny.text_encoder
    return tiny.tokenizer, CLIPTextModel(CLIPTextConfig(vocab_size=49408, **SD21_TEXT))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(rounds: list[tuple[float, ...]]) -> list[float]:
    """Of every column; the first of several rounds only warms up."""
    return [statistics.median(column) for column in zip(*(rounds[1:] or rounds), strict=True)]


def measure_step(case: Case, folder: Path) -> StepCost:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    vae, unet = autoencoder(case.name).eval().requires_grad_(False), case.unet()
    drop_gradients_when_made(unet)
    height, width = (8 * side for side in case.size)
    pictures = torch.randint(256, (case.batch, 3, height, width), generator=generator, dtype=torch.uint8)
    prompt = torch.randn((case.batch, GLOBAL_TOKENS, unet.config["cross_attention_dim"]), generator=generator)
    shape = (case.batch, 4, *case.size)
    given = {
        "sample": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "timestep": torch.randint(1000, (case.batch,), generator=generator),
    }
    placement = Geometry(size=(height, width)).draw(height, width)
    cache = LatentCache(folder, "benchmark")
    moments = moments_of(vae, pictures)
    cache.add({(str(i), placement): one for i, one in enumerate(moments)})

    def read() -> torch.Tensor:
        return torch.stack([cache.get(str(i), placement) for i in range(case.batch)])

    assert torch.equal(read(), moments)
    rounds = []
    for _ in range(case.rounds):
        encoding, reading = seconds(lambda: moments_of(vae, pictures)), seconds(read)
        learning = step(unet, given, lambda: {"encoder_hidden_states": prompt})
        whole = encoding + learning
        rounds.append((whole, encoding / whole, (reading + learning) / whole, reading / case.batch))
    whole, share, ratio, reading = medians(rounds)
    return StepCost(seconds=whole, encoding=share, ratio=ratio, read=reading)


def instance_prompts(count: int) -> list[str]:
    names = [c.prompt for c in Taxonomy.load("scenes").classes if c.prompt]
    return [" ".join(words) for words in itertools.islice(itertools.product(SIZES, COLOURS, names), count)]


def measure_prompts(name: str, count: int, rounds: int, folder: Path) -> PromptRates:
    torch.manual_seed(0)
    tokenizer, text_encoder = text_parts(name)
    text_encoder.eval()
    prompts = instance_prompts(count)
    alone = PromptEncoder(tokenizer, text_encoder)
    rates = []
    with torch.no_grad():
        for number in range(rounds):
            encoder = PromptEncoder(tokenizer, text_encoder, EmbeddingCache(folder, f"{name}-{number}"))
            single = seconds(lambda: [alone.encode([prompt], padded=False) for prompt in prompts])
            filled = seconds(lambda: encoder.fill(prompts, padded=False))  # noqa: B023
            cached = encoder.from_cache()
            reading = seconds(lambda: cached.encode(prompts, padded=False))  # noqa: B023
            rates.append((count / single, count / filled, count / reading, single / filled))
    single, filled, reading, gain = medians(rates)
    return PromptRates(single=single, filled=filled, read=reading, gain=gain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SD2.1 at 40x40 latents, fewer rounds: under a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("tiny", "sd21"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [case for case in cases(options.quick) if options.only in (None, case.name)]

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'model':>6}{'pictures':>10}{'latents':>9}{'step s':>8}{'encoding':>10}{'cached':>8}{'read ms':>9}")
        for case in chosen:
            cost = measure_step(case, Path(folder) / case.name)
            size = f"{case.size[0]}x{case.size[1]}"
            told = f"{cost.seconds:8.2f}{cost.encoding:10.3f}{cost.ratio:8.3f}{1000 * cost.read:9.3f}"
            print(f"{case.name:>6}{case.batch:10d}{size:>9}{told}")
            result[f"{case.name}_encoding_share"] = round(cost.encoding, 3)
            result[f"{case.name}_cached_step_ratio"] = round(cost.ratio, 3)
        print(f"{'model':>6}{'prompts':>10}{'one by one /s':>15}{'filled /s':>11}{'gain':>7}{'read /s':>9}")
        for case in chosen:
            count = 192 if case.name == "tiny" else 16 if options.quick else 128
            rates = measure_prompts(case.name, count, 2 if options.quick else 4, Path(folder) / "text")
            told = f"{rates.single:15.0f}{rates.filled:11.0f}{rates.gain:7.1f}{rates.read:9.0f}"
            print(f"{case.name:>6}{count:10d}{told}")
            result[f"{case.name}_prompts_per_second"] = round(rates.filled)
            result[f"{case.name}_prompts_gain"] = round(rates.gain, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
