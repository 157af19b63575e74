"""How soon `mamoe train` takes its first step, for how long a checkpoint stalls it, and how soon it ends.

    python perf/start.py [--quick] [--steps 50] [--save 40] [--limit 110] [--folder FOLDER]

A base model of Stable Diffusion 2.1's shape with random weights in float32 (5.2 GB) and 50 drawn pictures of 512x512
are made in a folder of their own, which goes with the end. Then the command itself runs, as a user would start it: once
with low-rank experts for two steps, which fills the caches of prompts and latents, and once with every weight, Adam and
the average, ``steps`` steps with a checkpoint after ``save``. No command runs longer than ``limit`` seconds; of one
that was ended what is known by then is reported. No pictures are drawn meanwhile. The last line is one JSON object, all
in seconds:

first_step   from the command's start to the end of its first step with warm caches; ``cold``: with empty ones
start        where these go: importing, loading the base model and the caches, moving it to the device, optimizer and
             average (set up), the loss of fixed pictures (measured), the step
step         the median before the checkpoint; ``beside_writing``: after it
stall        by how much the step behind the checkpoint took longer; ``room_was_ready``: whether the memory for its copy
             had been made by then, which takes ``room`` from the first step on
written      from the checkpoint's step until it was on the disk
end          from the last step to the command's end, ``saved`` of it until the last checkpoint was on the disk

`--quick` does the same with tiny networks on a CPU: a test of this script.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from gpu_measuring import FULL, SMALL, VAE_WIDTHS
from start_times import FILE, announce
from transformers import CLIPTextConfig, CLIPTextModel

from gpu import rounded
from mamoe.bases.tiny import NO_EXTRAS, new_tokenizer
from mamoe.diffusion.schedules import make_scheduler
from mamoe.vocabulary.taxonomy import Taxonomy

HERE = Path(__file__).parent
NEEDED = 58e9  # bytes of disk: base model, and two checkpoints of 23.4 GB
AFTER = {"loaded": "imported", "moved": "loaded", "set up": "moved", "first batch": "set up", "step": "first batch"}
PHASES = {"loaded": "loading", "moved": "moving", "set up": "set_up", "first batch": "measured", "step": "step"}


def write_base(folder: Path, unet: dict[str, Any], widths: tuple[int, ...], text_layers: int) -> None:
    """A base model with random weights in diffusers' layout, made on the GPU where there is one."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer(row.prompt for row in Taxonomy.load("scenes").classes)
    width = unet["cross_attention_dim"]
    pictures: dict[str, Any] = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": min(32, widths[0] // 2),
    }
    prompts: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": width // 64 or 1,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(**pictures),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**prompts)),
        }
    parts |= {"tokenizer": tokenizer, "scheduler": make_scheduler("v", zero_snr=False)}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    origins = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index = {"_class_name": "StableDiffusionPipeline", **origins, **NO_EXTRAS}
    (folder / "model_index.json").write_text(json.dumps(index))


def command(words: list[str], folder: Path, limit: float, **environment: str) -> dict[str, Any]:
    """Runs `mamoe` with these words: how it ended, and when it began and ended."""
    print("$ mamoe", *words, flush=True)
    paths = [str(folder), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    began = time.time()
    with (folder / "said.txt").open("w") as said:
        try:
            code = subprocess.run(
                [sys.executable, "-m", "mamoe", *words],
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:  # and is killed
            code = None
    ended = time.time()
    words_said = (folder / "said.txt").read_text().strip()
    print(words_said[-2000:], flush=True)
    print(f"{ended - began:.1f} s, ended with {code}", flush=True)
    return {"began": began, "ended": ended, "code": code}


def train(name: str, folder: Path, own: list[str], limit: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A training in ``folder``: how its command ran, and what the callback noted meanwhile."""
    notes = folder / f"{name}.jsonl"
    words = [
        "train",
        "experiment=mamoe",
        "data=folder",
        f"data.root={folder / 'data'}",
        "data.crop=center",
        f"model.path={folder / 'base'}",
        "model.revision=null",
        "cache.latents=true",
        f"cache.folder={folder / 'cache'}",
        f"runs={folder / 'runs'}",
        f"name={name}",
        *own,
    ]
    ran = command(words, folder, limit, **{FILE: str(notes)})
    noted = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    return ran, noted


def report(ran: dict[str, Any], noted: list[dict[str, Any]], save: int, steps: int, log: str) -> dict[str, Any]:
    """What the notes of the second training say; a figure whose end was not seen is None."""
    first = {note["what"]: note["at"] for note in reversed(noted)}  # of several the first
    first |= {note["what"]: ran["began"] + note["after"] for note in noted if "after" in note}
    ends = {note["step"]: note["at"] for note in noted if note["what"] == "step"}
    making = {note["step"]: note["making_room"] for note in noted if note["what"] == "step"}
    taken = {step: ends[step] - ends[before] for before, step in pairwise(sorted(ends))}
    before = [seconds for step, seconds in taken.items() if 2 < step <= save]
    behind = [seconds for step, seconds in taken.items() if step > save + 1]
    median = statistics.median(before) if before else None
    ready = [ends[step] for step in sorted(ends) if step > 1 and not making[step]]
    start = {"importing": _between(first, "imported", since=ran["began"])}
    start |= {PHASES[what]: _between(first, what, since=first.get(earlier)) for what, earlier in AFTER.items()}
    written = re.search(rf"^(\S+ \S+),(\d+) INFO Step {save}: checkpoint", log, re.MULTILINE)
    on_disk = None if written is None else datetime.fromisoformat(written[1]).timestamp() + int(written[2]) / 1000
    return {
        "first_step": _between(first, "step", since=ran["began"]),
        "start": start,
        "step": median,
        "beside_writing": statistics.median(behind) if behind else None,
        "stall": None if median is None or save + 1 not in taken else taken[save + 1] - median,
        "room_was_ready": None if save not in making else not making[save],
        "room": ready[0] - ends[1] if ready else None,
        "written": None if on_disk is None or save not in ends else on_disk - ends[save],
        "end": ran["ended"] - ends[steps] if steps in ends and ran["code"] is not None else None,
        "saved": _between(first, "saved", since=ends.get(steps)),
        "code": ran["code"],
    }


def _between(at: dict[str, float], what: str, since: float | None) -> float | None:
    return None if what not in at or since is None else at[what] - since


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    side, limit = (64 if options.quick else 512), options.limit
    began = time.perf_counter()
    if options.quick:
        write_base(folder / "base", SMALL, (8, 8, 8, 8), 2)
    else:
        write_base(folder / "base", FULL.unet, VAE_WIDTHS, 23)
    print(f"base model: {time.perf_counter() - began:.1f} s", flush=True)
    shape = ["--height", str(side), "--width", str(side)]
    command(["scenes", str(folder / "data"), "--train", "40", "--val", "10", "--test", "0", *shape], folder, limit)
    small = ["trainer.accelerator=cpu", "trainer.precision=32-true", "data.batch_size=2", "data.num_workers=1"]
    own = small if options.quick else []
    cold, noted = train("cold", folder, [*own, "method=lora_experts", "callbacks=none", "trainer.max_steps=2"], limit)
    first = next((note["at"] - cold["began"] for note in noted if note["what"] == "step"), None)
    shutil.rmtree(folder / "runs" / "cold", ignore_errors=True)
    if not options.quick and (free := shutil.disk_usage(folder).free) < NEEDED:
        print(f"{free / 1e9:.0f} GB are free: no average is kept, so that two checkpoints have room", flush=True)
        own.append("ema_decay=null")
    own += [f"trainer.max_steps={options.steps}", f"callbacks.checkpoints.every={options.save}"]
    ran, noted = train("warm", folder, [*own, "callbacks.samples=null"], limit)
    log = "".join(path.read_text() for path in (folder / "runs" / "warm").glob("*/log.txt"))
    return {**report(ran, noted, options.save, options.steps, log), "cold": first}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny networks on the CPU: a test of the script")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--save", type=int, default=40, help="the step behind which the checkpoint is written")
    parser.add_argument("--limit", type=float, default=110, help="seconds that a command may take")
    parser.add_argument("--folder", type=Path, help="where everything is made; default: that of temporary files")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        parser.error("there is no GPU here; --quick runs without one")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        announce(Path(folder))
        found = rounded(measured(Path(folder), options))
    print(json.dumps(found))
    return int(found["code"] != 0)


if __name__ == "__main__":
    sys.exit(main())
