"""What tests of whole runs need: a base model that trains in a moment, drawn scenes, and the command."""

import copy
import io
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mamoe.assemble.data import layout_settings, splits
from mamoe.bases import tiny
from mamoe.cli import main
from mamoe.config.compose import compose
from mamoe.config.described import described
from mamoe.config.train import validated
from mamoe.diffusion.schedules import make_scheduler
from mamoe.scenes import Domain, write_scenes
from mamoe.vocabulary.taxonomy import Taxonomy

TEXT_WIDTH, SECOND_WIDTH, POOLED_WIDTH = 32, 48, 40


def tiny_base(folder: Path, *, two_encoders: bool = False) -> Path:
    """Write a base model folder with random weights, as small as diffusers allows; returns the folder.

    With two text encoders it is shaped like SDXL: three levels, no transformer blocks on the finest, two per layer on
    the coarsest, and a pooled prompt and the pictures' sizes beside the text.
    """
    tokenizer = tiny.new_tokenizer(c.prompt for c in Taxonomy.load("scenes").classes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**_UNET, **(_XL if two_encoders else _PLAIN)),
            "vae": AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=1,
                latent_channels=4,
                norm_num_groups=4,
            ),
            "text_encoder": CLIPTextModel(text_config(tokenizer, TEXT_WIDTH)),
        }
        if two_encoders:
            config = text_config(tokenizer, SECOND_WIDTH, projection_dim=POOLED_WIDTH, hidden_act="gelu")
            parts["text_encoder_2"] = CLIPTextModelWithProjection(config)
    if two_encoders:
        parts["tokenizer_2"] = copy.deepcopy(tokenizer)
        parts["tokenizer_2"].pad_token = "!"  # as SDXL's: the two differ in their padding
        pipe = StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizer, scheduler=make_scheduler("epsilon", zero_snr=False), add_watermarker=False
        )
    else:
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


_UNET: dict[str, Any] = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8, "use_linear_projection": True}
_PLAIN: dict[str, Any] = {
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 2,
}
_XL: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 2, 2),
    "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED_WIDTH,
}


def text_config(tokenizer: CLIPTokenizer, width: int, **changes: Any) -> CLIPTextConfig:
    """A text transformer of two layers for the tokenizer's words."""
    return CLIPTextConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "projection_dim": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": tiny.PROMPT_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        }
    )


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


def trained_by(outcome):
    """The taxonomy and the first sample of the training that an import's last line starts; its check finds nothing."""
    assert outcome.code == 0, outcome.err
    check, train = (shlex.split(line.removeprefix("Next:")) for line in outcome.out.splitlines()[-2:])
    checked = mamoe(*check[1:])
    assert checked.code == 0, checked.err
    assert train[:2] == ["mamoe", "train"]
    config = validated(described(compose(train[2:])))
    settings = layout_settings(config)
    settings.taxonomy.grouping(config.layout.grouping)
    return settings.taxonomy, splits(config, settings.taxonomy)[0][0]
