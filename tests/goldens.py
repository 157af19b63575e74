"""What an earlier version left on a disk (golden/disk), put in place, and how it is looked at.

    golden/make.py        made it; writes disk/ and expected.*
    golden/disk/          a base model, data, runs with checkpoints, caches, an export, a benchmark, a sampling job
    golden/expected.json, expected.safetensors      what that version drew, learned and measured from them
    test_golden.py        the version at hand does the same

Only the command and the package's public names are used here: modules move, what lies on a disk does not.
Paths in the files are written as @HERE@, and become those of the copy.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel

from factories import Outcome, mamoe
from mamoe import LayoutPipeline, PanopticMap

FOLDER = Path(__file__).parent / "golden"
DISK, JSON, ARRAYS = FOLDER / "disk", FOLDER / "expected.json", FOLDER / "expected.safetensors"
HERE = "@HERE@"
STAMP = "2026-01-01_12-00-00-0000"  # of every run
STOPPED, WHOLE = 4, 6  # steps: the last checkpoint of what was killed, and the end
RUNS = ("mamoe", "lora", "text")
KILLED = ("mamoe", "lora")  # between the two
LORA_FILES = ("diffusers-lora", "kohya")
MANIFEST, RECIPE = "MANIFEST.json", "recipe.json"
_TEXT = {".json", ".yaml", ".txt", ".csv", ".md", ".html"}


def placed(here: Path, disk: Path = DISK) -> Path:
    """A copy of the disk whose files name ``here`` as their place."""
    shutil.copytree(disk, here, symlinks=True)
    rewritten(here, {HERE: str(here)})
    return here


def rewritten(folder: Path, changes: Mapping[str, str]) -> None:
    """Replace text in all text files, and close the checkpoints again whose files changed."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXT and path.is_file() and not path.is_symlink():
            text = changed = path.read_text(encoding="utf-8")
            for old, new in changes.items():
                changed = changed.replace(old, new)
            if changed != text:
                path.write_text(changed, encoding="utf-8")
    for manifest in folder.rglob(MANIFEST):
        closed(manifest)


def closed(manifest: Path) -> None:
    """Make a checkpoint's manifest say what its files are now."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name, facts in content["files"].items():
        data = (manifest.parent / name).read_bytes()
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")


def run_in(here: Path, name: str) -> Path:
    return here / "runs" / name / STAMP


def checkpoint_in(here: Path, name: str, step: int) -> Path:
    return run_in(here, name) / f"checkpoints/step-{step:08d}"


def done(*words: str | Path) -> Outcome:
    outcome = mamoe(*words)
    assert outcome.code == 0, (words, outcome.out, outcome.err)
    return outcome


# The words of the commands whose results lie on the disk. Paths are written whole in some, and in the others from the
# disk's folder: these commands are to be called from there.


def cached(here: Path) -> list[str | Path]:
    return ["cache", *_trained(here), "name=mamoe", *MAMOE]


def trained(here: Path, name: str) -> list[str | Path]:
    where, own = {"mamoe": (here, MAMOE), "lora": (Path(), LORA), "text": (Path(), TEXT)}[name]
    return ["train", *_trained(where), f"name={name}", *own]


def _trained(where: Path) -> list[str]:
    return [
        *("experiment=demo", f"model.path={where / 'base'}", f"data.root={where / 'data'}", f"runs={where / 'runs'}"),
        *("data.size=[64,64]", "data.batch_size=2", "trainer.accelerator=cpu", f"trainer.max_steps={WHOLE}"),
        # An eps so large that what is 0 but for rounding stays where it is: its sign is another on every CPU.
        *("optimizer.lr=0.01", "+optimizer.eps=1.0e-3", "lr_scheduler.warmup_steps=1"),
        *("callbacks.validation={every: 2, images: 2}", "callbacks.samples=null"),
        f"callbacks.checkpoints.every={STOPPED}",
    ]


MAMOE = ["model.train_text_encoder=false", "layout.grouping=streets"]
LORA = [
    *("method=lora", "method.rank=2", "method.alpha=4", "method.conv=false", "optimizer=adam"),
    *("model.train_text_encoder=false", "cache.latents=false", "layout.moe=false", "layout.global_prompt=true"),
]
TEXT = [
    *("optimizer._target_=torch.optim.SGD", "~optimizer.name", "~optimizer.betas", "~optimizer.eps"),
    *("model.train_text_encoder=true", "cache.latents=false", "layout.moe=false", "layout.region_attention=false"),
    *("layout.global_prompt=true", "layout.global_padding=true", "ema_decay=null"),
]


def exported(here: Path, out: Path) -> list[str | Path]:
    return ["export", run_in(here, "mamoe"), out]


def sampled(here: Path, out: Path) -> list[str | Path]:
    prompts = ("--prompts", here / "data/prompts_test.csv")
    own = ("--instance-prompts", here / "data/instance_prompts_test.json")
    maps = ("--panoptic", here / "data/panoptic/test")
    return ["sample", run_in(here, "mamoe"), *maps, *prompts, *own, "--steps", "3", "--out", out]


def evaluated(here: Path) -> list[str | Path]:
    words = ("--scores", "fid,kid,copying", "--modes", "cfg", "--steps", "2", "--extractor", "pixels")
    return ["evaluate", run_in(here, "mamoe"), *words]


BENCHMARK = [
    *("benchmark", "out=bench", "methods=[full,mamoe]", "seeds=[0]", "budget.images=4"),
    *("scenes=null", "~datasets.dusk_town", "+datasets.town=['data.root=data']"),
    *("pictures.steps=2", "pictures.images=null", "scores.names=[fid,kid]"),
    *("model.path=base", "data.size=[64,64]", "data.batch_size=2"),
]


# What is looked at.


PIPELINES = ("mamoe", "mamoe without average", "lora", "text", "exported")


def loaded(here: Path, name: str) -> LayoutPipeline:
    """One of :data:`PIPELINES`."""
    if name == "exported":
        pipe = LayoutPipeline.from_pretrained(here / name)
    elif name == "mamoe without average":
        pipe = LayoutPipeline.from_pretrained(run_in(here, "mamoe"), ema=False)
    else:
        pipe = LayoutPipeline.from_pretrained(run_in(here, name))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: LayoutPipeline, here: Path) -> dict[str, torch.Tensor]:
    """A test layout drawn in three steps: as the autoencoder gets it, and every fourth pixel of the picture."""
    data, name = here / "data", "scene_000001.png"
    with (data / "prompts_test.csv").open(newline="", encoding="utf-8") as file:
        prompts = {row["img_name"]: row["prompt"] for row in csv.DictReader(file)}
    own = json.loads((data / "instance_prompts_test.json").read_text(encoding="utf-8"))[name]

    def call(output_type: str) -> torch.Tensor:
        return pipe(
            prompt=prompts[name],
            panoptic=PanopticMap.read(data / "panoptic/test" / name),
            instance_prompts={int(segment): text for segment, text in own.items()},
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(3),
            output_type=output_type,
        ).images[0]

    return {"latents": call("latent"), "picture": call("pt")[:, ::4, ::4].contiguous()}


def lora_file(here: Path, form: str, out: Path) -> dict[str, torch.Tensor]:
    """The LoRA of its run in another program's form, written into ``out``."""
    done("export", run_in(here, "lora"), out, "--format", form)
    (file,) = out.glob("*.safetensors")
    return load_file(file)


def folder_scores(here: Path) -> dict[str, Any]:
    """Distances between two folders of real pictures: as many as intervals need to tell one seed from another."""
    against = ("--against", here / "data/images/val", "--out", here / "folders")
    done("evaluate", here / "data/images/train", *against, "--scores", "fid,kid", "--extractor", "pixels")
    return scores_in(here / "folders/metrics.json")


def colour_hits(here: Path) -> dict[str, Any]:
    """The layout score that no network of another CPU has a part in, of the sampling job's pictures."""
    out = here / "layouts"
    data = ("--data", here / "data", "--taxonomy", "scenes")
    done("evaluate", here / "pictures", *data, "--scores", "layout", "--out", out)
    return {name: score for name, score in scores_in(out / "metrics.json").items() if name.endswith("colour hits")}


def tensors_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All that a checkpoint learned: weights, averages, moments."""
    files = sorted(path for path in checkpoint.rglob("*.safetensors"))
    return {
        f"{path.relative_to(checkpoint).as_posix()}:{name}": value
        for path in files
        for name, value in sorted(load_file(path).items())
    }


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def summary(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Three numbers for each tensor in the order of their names: mean, mean size, and one that knows the places."""
    rows = []
    for name in sorted(tensors):
        value = tensors[name].double().flatten()
        wave = torch.cos(torch.arange(len(value), dtype=torch.float64))
        rows.append(torch.stack([value.mean(), value.abs().mean(), (value * wave).mean()]))
    return torch.stack(rows).float()


def weights_of(pipe: LayoutPipeline) -> dict[str, torch.Tensor]:
    """The weights of all networks of a pipeline."""
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return {f"{part}.{name}": value for part, network in parts.items() for name, value in network.state_dict().items()}


def files_in(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file with its place on the disk and its hash: a file written again has another place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def scores_in(metrics: Path) -> dict[str, dict[str, Any]]:
    """Every score of an evaluation by row and name, without the versions of libraries."""
    table = json.loads(metrics.read_text(encoding="utf-8"))
    return without_versions({f"{row['label']}: {s['name']}": s for row in table["rows"] for s in row["scores"]})


def without_versions(content: Any) -> Any:
    """JSON without the versions of libraries, wherever they stand."""
    if isinstance(content, dict):
        return {key: without_versions(value) for key, value in content.items() if key != "versions"}
    return [without_versions(value) for value in content] if isinstance(content, list) else content


def arithmetic(here: Path) -> str:
    """A hash of what the base model computes by the libraries alone: equal where sums round in the same way.

    CPUs, their numbers of threads and versions of libraries differ in the last bits of a convolution.
    """
    base = here / "base"
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    noise = torch.linspace(-2, 2, 2 * 4 * 8 * 8).sin().reshape(2, 4, 8, 8)
    states = text(torch.arange(2 * 77).reshape(2, 77) % text.config.vocab_size).last_hidden_state
    drawn = unet(noise, torch.tensor([3, 700]), states).sample
    decoded = vae.decode(drawn).sample
    encoded = vae.encode(decoded).latent_dist.mean
    (encoded.square().mean() + decoded.square().mean()).backward()
    grads = {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}
    return digest({**grads, "drawn": drawn, "decoded": decoded, "encoded": encoded})


def pixels_in(folder: Path) -> dict[str, np.ndarray]:
    """The pictures of a folder, i32[H W 3]."""
    return {path.name: np.asarray(Image.open(path)).astype(np.int32) for path in sorted(folder.glob("*.png"))}
