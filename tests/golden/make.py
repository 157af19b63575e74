"""Make the golden files anew: python tests/golden/make.py [OUT]      (default: beside this script, over the old ones)

Run with the version whose disks are to be kept working; test_golden.py then holds later versions against it. The files
in the repository were made by the version before the package was rebuilt, and stay: made anew they would prove nothing.

Everything is seeded; two calls on one machine differ in what was measured of time and memory, in names of cache shards,
in a list that diffusers makes of a set (_use_default_values), and in nothing else.
Afterwards the machine is taken out of the files: paths become @HERE@, dates and ids of runs one and the same, platforms
"a machine"; the manifests of checkpoints are closed again. The runs mamoe and lora are left as if killed between the
checkpoint of step 4 and the end at step 6, whose weights go into what is expected.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import goldens
from goldens import (
    ARRAYS,
    DISK,
    HERE,
    JSON,
    KILLED,
    LORA_FILES,
    PIPELINES,
    RUNS,
    STAMP,
    STOPPED,
    WHOLE,
    checkpoint_in,
    colour_hits,
    digest,
    done,
    drawn,
    folder_scores,
    lora_file,
    placed,
    run_in,
    summary,
    tensors_in,
    weights_of,
)

WORDS = (
    "a an in of on the and at with car bus truck person coat street town dusk red blue white road sky building".split()
)

MADE_ANEW = [  # and large
    *("pictures/contact_sheet.png", "runs/*/*/eval/*/*/copies-*.png"),
    *("bench/report.html", "bench/cache", "bench/cells/*/eval/autoencoder"),
]


def make_base(folder: Path) -> None:
    """A base model of 12 thousand weights: two levels, of which the finer has attention."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 4),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(2, 2, 2, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            projection_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _tokenizer() -> CLIPTokenizer:
    letters = [*"abcdefghijklmnopqrstuvwxyz,"]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = word[0]
        for letter in [*word[1:-1], *([f"{word[-1]}</w>"] if len(word) > 1 else [])]:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def make_disk(here: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Fill the folder; returns what every run had learned at its end, by the names of the runs."""
    make_base(here / "base")
    counts = [word for split, count in (("train", 6), ("val", 3), ("test", 2)) for word in (f"--{split}", str(count))]
    done("scenes", here / "data", *counts, "--height", "64", "--width", "64")
    done(*goldens.cached(here))
    ends = {}
    for name in RUNS:
        done(*goldens.trained(here, name))
        stamped(here / "runs" / name)
        ends[name] = tensors_in(checkpoint_in(here, name, WHOLE))
        kept, dropped = (WHOLE, STOPPED) if name == "text" else (STOPPED, WHOLE)
        shutil.rmtree(checkpoint_in(here, name, dropped))
        for link in ("latest", "best"):
            linked(run_in(here, name) / "checkpoints" / link, f"step-{kept:08d}")
    done(*goldens.exported(here, here / "exported"))
    done(*goldens.sampled(here, here / "pictures"))
    done(*goldens.evaluated(here))
    done(*goldens.BENCHMARK)
    for cell in (here / "bench/cells").iterdir():
        stamped(cell / "run/cell")
    for made_anew in MADE_ANEW:
        for path in here.glob(made_anew):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ends


def stamped(runs: Path) -> None:
    """Give the one run in the folder its lasting name."""
    (made,) = (path for path in runs.iterdir() if not path.is_symlink())
    made.rename(runs / STAMP)
    goldens.rewritten(runs, {made.name: STAMP})
    linked(runs / "latest", STAMP)


def linked(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def make_neutral(here: Path) -> None:
    """Take out of the files what is of this machine."""
    machine = f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}"
    goldens.rewritten(here, {str(here): HERE, machine: "a machine"})
    for path in here.rglob("environment.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, "platform": "a machine", "cpus": 1}, indent=2) + "\n", encoding="utf-8")


def look(here: Path, ends: dict[str, dict[str, torch.Tensor]]) -> tuple[dict, dict[str, torch.Tensor]]:
    """What the tests expect of a disk in place: records, and numbers that another CPU may round otherwise."""
    records = {
        "arithmetic": goldens.arithmetic(here),
        "ends": {name: digest(ends[name]) for name in KILLED},
        "lora files": {form: digest(lora_file(here, form, here / form)) for form in LORA_FILES},
        "folder scores": folder_scores(here),
        "colour hits": colour_hits(here),
        "weights": {},
        "drawn": {},
    }
    arrays = {f"end/{name}": summary(ends[name]) for name in KILLED}
    for name in PIPELINES:
        pipe = goldens.loaded(here, name)
        weights, pictures = weights_of(pipe), drawn(pipe, here)
        arrays |= {f"weights/{name}": summary(weights)} | {f"{what}/{name}": v for what, v in pictures.items()}
        records["weights"][name] = digest(weights)
        records["drawn"][name] = {what: digest({what: value}) for what, value in pictures.items()}
    return records, arrays


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch).resolve() / "first", Path(scratch).resolve() / "second"
        first.mkdir()
        with chdir(first):
            ends = make_disk(first)
        make_neutral(first)
        shutil.rmtree(out / DISK.name, ignore_errors=True)
        shutil.copytree(first, out / DISK.name, symlinks=True)
        records, arrays = look(placed(second, out / DISK.name), ends)
    (out / JSON.name).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    save_file(arrays, out / ARRAYS.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
