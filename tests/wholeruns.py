"""What the tests of whole runs share."""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from factories import mamoe
from mamoe import LayoutPipeline, PanopticMap
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv

WEIGHTS = "diffusion_pytorch_model.safetensors"
COMMAND = [sys.executable, "-m", "mamoe"]  # in a process of its own
SMALL = [
    "callbacks.validation=null",
    "callbacks.samples=null",
    "callbacks.checkpoints.every=null",
]  # nothing but the steps and the last checkpoint


def trained(*overrides: str, code: int = 0):
    outcome = mamoe("train", *overrides)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    return outcome


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, averages, moments."""
    folder = run / f"checkpoints/step-{step:08d}"
    return {
        f"{path.relative_to(folder)}:{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and a
    different = [name for name, value in a.items() if not torch.equal(value, b[name])]
    assert not different


def cut_back(run: Path, copy: Path, step: int) -> Path:
    """A copy of ``run`` as it was right after the checkpoint of ``step``."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in (copy / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for name in ("latest", "best"):
        link = copy / "checkpoints" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"step-{step:08d}")
    return copy


def draw(pipe: LayoutPipeline, scenes: Path, **options) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    name = "scene_000001.png"
    picture = pipe(
        prompt=read_prompts_csv(scenes / "prompts_test.csv")[name],
        panoptic=PanopticMap.read(scenes / "panoptic/test" / name),
        instance_prompts=read_instance_prompts(scenes / "instance_prompts_test.json")[name],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        **options,
    ).images[0]
    return np.asarray(picture)


def run_folders(runs: Path, name: str) -> list[Path]:
    return [path for path in (runs / name).iterdir() if not path.is_symlink()]
