"""What tests of whole runs need: a base model that trains in a moment, drawn scenes, and the command."""

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from mamoe.cli import main
from mamoe.data.scenes import Domain, write_scenes
from mamoe.diffusion.schedules import make_scheduler
from mamoe.models import tiny
from mamoe.taxonomy import Taxonomy

TEXT_WIDTH = 32


def tiny_base(folder: Path) -> Path:
    """Write a base model folder with random weights, as small as diffusers allows; returns the folder."""
    tokenizer = tiny.new_tokenizer(c.prompt for c in Taxonomy.load("scenes").classes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 32),
                down_block_types=("CrossAttnDownBlock2D",) * 2,
                up_block_types=("CrossAttnUpBlock2D",) * 2,
                layers_per_block=1,
                cross_attention_dim=TEXT_WIDTH,
                attention_head_dim=2,
                norm_num_groups=8,
                use_linear_projection=True,
            ),
            "vae": AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=1,
                latent_channels=4,
                norm_num_groups=4,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=TEXT_WIDTH,
                    intermediate_size=2 * TEXT_WIDTH,
                    projection_dim=TEXT_WIDTH,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=tiny.PROMPT_TOKENS,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
        }
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=make_scheduler("v_prediction", zero_snr=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def drawn_data(folder: Path, counts: Mapping[str, int], height: int = 64, width: int = 64) -> Path:
    """Draw scenes of one town at dusk; returns the folder."""
    write_scenes(folder, domain=Domain.DUSK_TOWN, counts=counts, height=height, width=width)
    return folder


def break_picture(path: Path) -> None:
    """Leave a file that says it is a picture and cannot be decoded."""
    path.write_bytes(path.read_bytes()[:200])


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def mamoe(*words: str | Path) -> Outcome:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["mamoe", *map(str, words)]):
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code or 0
    assert isinstance(code, int)
    return Outcome(code=code, out=out.getvalue(), err=err.getvalue())


def short_run(base: Path, data: Path, runs: Path) -> list[str]:
    """Overrides of a training of four steps with everything switched on, in a second or two."""
    return [
        "experiment=demo",
        f"model.path={base}",
        "model.train_text_encoder=false",
        f"data.root={data}",
        f"runs={runs}",
        "data.size=[64,64]",
        "data.batch_size=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "callbacks.validation={every: 2, images: 2}",
        "callbacks.samples={every: 4, images: 2, steps: 2}",
        "callbacks.checkpoints.every=2",
    ]


def only_run(runs: Path, name: str = "demo") -> Path:
    """The one run folder below ``runs``."""
    (folder,) = (path for path in (runs / name).iterdir() if not path.is_symlink())
    return folder
