"""The story of `mamoe init`: pictures and maps become settings of one's own, and the commands to type next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mamoe.config.compose import options_of, search_path
from mamoe.config.shipped import SHIPPED
from mamoe.data.folder.description import DATA_YAML, data_folder
from mamoe.data.folder.listing import listed
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.memory import GPU_PRESETS, is_as_large
from mamoe.prepare.classes import read_class_table
from mamoe.storage.staging import write_whole
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import PER_CLASS, Taxonomy

CONFIGS = Path("configs")  # where a training looks, see mamoe.config.compose.search_path
TINY = "tiny"
SHIPPED_BASES = (TINY, "tiny_dit")  # which train on a CPU in minutes
# Height and width that base models draw at; those not named at 1024.
_SIZES = {**dict.fromkeys(SHIPPED_BASES, (128, 256)), "sd15": (512, 512), "sd21": (768, 768), "sd21_base": (512, 512)}
_LARGE = (1024, 1024)
# Whose pictures are patches of two latent cells a side.
_IN_PATCHES = (
    "tiny_dit",
    "pixart_sigma",
    "sd35_medium",
    "flux_dev",
    "flux2_klein",
    "flux2_dev",
    "qwen_image",
    "z_image",
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_STEPS = {TINY: 600, "tiny_dit": 800}
_MANY_STEPS = 10_000
# GB of the weights in bf16, of bases that are trained by adapters alone.
_BY_ADAPTERS = {"flux_dev": 24, "flux2_klein": 8, "flux2_dev": 64, "sd35_medium": 5, "qwen_image": 41, "z_image": 12}
# What trains the shipped bases in minutes, beside their defaults.
_OF_TINY: Mapping[str, Any] = {
    "model": {"train_text_encoder": True},
    "optimizer": {"lr": 8.0e-4},
    "lr_scheduler": {"warmup_steps": 20},
    "ema_decay": 0.99,
}
_OF_TINY_DIT: Mapping[str, Any] = {**_OF_TINY, "optimizer": {"lr": 1.0e-3}, "regions": {"strength": "soft"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What `mamoe init` was told."""

    name: str
    images: Path  # folder of pictures; of a data set in this package's layout, with one folder per split
    maps: Path  # folder of panoptic or other label pictures, or a COCO JSON of objects
    classes: str | None  # class table or taxonomy: a name or a YAML file; None: what data.yaml or the JSON says
    base: str  # a preset of the group model
    memory: float  # GB of the GPU; 0: none
    steps: int | None  # of the training; None: what suits the base


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Files to write, and what to say."""

    files: Mapping[Path, str]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def bases() -> list[str]:
    """The base models that can be chosen."""
    return options_of("model", [SHIPPED])


def name_for(folder: Path) -> str:
    """A name for settings made of the folder's."""
    plain = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return plain if _NAME.fullmatch(plain) else f"data_{plain}".rstrip("_")


def plan(wishes: Wishes) -> Plan:
    """What would be written; nothing is yet.

    Raises:
        ConfigError: a name or base that cannot be, files that are there already.
        DatasetError: no pictures, no maps.
    """
    name = wishes.name
    files = {group: CONFIGS / group / f"{name}.yaml" for group in ("data", "taxonomy", "experiment")}
    _require_new(name, list(files.values()))
    if wishes.base not in bases():
        raise ConfigError(f"There is no base model {wishes.base}. There are: {', '.join(bases())}.")
    trainer, notes = _trainer(wishes.base, wishes.memory)
    if not wishes.images.is_dir():
        raise DatasetError(f"There is no folder {wishes.images}: wanted one with your pictures.")
    if not listed(wishes.images, SUFFIXES, recursive=True).names:
        raise DatasetError(f"{wishes.images} holds no pictures (*{', *'.join(SUFFIXES)}).")
    if not wishes.maps.exists():
        raise DatasetError(f"There is no {wishes.maps}: wanted a folder of maps, or a COCO JSON of objects.")
    taxonomy = _taxonomy(wishes)
    ready = taxonomy is not None and _is_in_layout(wishes, taxonomy)
    if ready:
        root, parts, commands = wishes.images.parent, _parts(wishes), []
        notes.append(f"{wishes.maps} holds panoptic PNGs of this package: they are used as they lie.")
    else:
        if taxonomy is not None and _is_panoptic(wishes.maps, taxonomy):
            raise DatasetError(
                f"{wishes.maps} holds panoptic PNGs of this package, which are used as they lie, but in a folder for "
                f"every split: move the pictures into {wishes.images / 'train'} and the maps into "
                f"{wishes.maps / 'train'}, and ask again (docs/data.md)."
            )
        root, parts = Path("data") / name, {}
        commands = [_import_command(wishes, root)]
        notes.append(f"{wishes.maps} holds maps of another kind: the first command makes a data set of them in {root}.")
    text = {
        files["experiment"]: _experiment(wishes, trainer, taxonomy),
        files["data"]: _data(wishes, root, parts, taxonomy),
    }
    if taxonomy is not None:
        text[files["taxonomy"]] = _yaml(f"Made by `mamoe init` for {name}. docs/data.md, Taxonomy.", taxonomy.to_dict())
    else:
        notes.append("The classes are those the JSON names; the import writes them down.")
    commands += [shlex.join(["mamoe", "check", str(root)]), f"mamoe train experiment={name}"]
    return Plan(files=text, commands=tuple(commands), notes=tuple(notes))


def write_plan(found: Plan) -> None:
    """Write the files: all of them, or none."""
    done: list[Path] = []
    try:
        for path, text in found.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(text, path)
            done.append(path)
    except BaseException:
        for path in done:
            path.unlink()
        raise


def _require_new(name: str, files: list[Path]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name}: wanted small letters, digits and _, a letter first, such as harbour.")
    roots = [SHIPPED, *(root for root in map(Path, search_path()) if root != CONFIGS.resolve())]
    taken = [group for group in ("data", "taxonomy", "experiment") if name in options_of(group, roots)]
    if taken:
        raise ConfigError(
            f"--name {name}: {taken[0]}={name} ships with the package and would hide yours. Take another."
        )
    if there := [str(path) for path in files if path.exists()]:
        raise ConfigError(f"{', '.join(there)} would be overwritten. Take another --name, or remove what is there.")


def _trainer(base: str, memory: float) -> tuple[str | None, list[str]]:
    """The preset of the group trainer; None: the default one."""
    if base in SHIPPED_BASES:
        return None, []
    if memory <= 0:
        return None, [f"Without a GPU a step of {base} takes minutes: fit for a trial with debug=limit, no more."]
    fits = [size for size in GPU_PRESETS if is_as_large(memory, size)]
    if not fits:
        raise ConfigError(
            f"--memory {memory:g}: the smallest preset is for {GPU_PRESETS[0]} GB. Take --base {TINY}, or --memory 0 "
            "and settings of your own (docs/training.md)."
        )
    notes = []
    if base in _BY_ADAPTERS:
        notes.append(
            f"{base} is trained by adapters (method=lora_experts); whether they fit {memory:g} GB was not tried."
        )
    if _frozen_precision(base, memory) == "nf4":
        notes.append("Frozen weights in 4 bits (nf4) want another package: pip install 'mamoe[quantised]'.")
    return f"gpu_{fits[-1]}gb", notes


def _frozen_precision(base: str, memory: float) -> str | None:
    """What weights beside adapters are kept in; None: as the preset says."""
    if base not in _BY_ADAPTERS or memory <= 0:
        return None
    return "bf16" if 2 * _BY_ADAPTERS[base] <= memory else "nf4"


def _taxonomy(wishes: Wishes) -> Taxonomy | None:
    """The classes; None: a COCO JSON will say them."""
    if wishes.classes is not None:
        return read_class_table(wishes.classes).taxonomy
    if (wishes.images.parent / DATA_YAML).is_file():
        return data_folder(wishes.images.parent).taxonomy
    if wishes.maps.is_file():
        return None
    raise ConfigError(
        f"What do the values in {wishes.maps} mean? --classes: a taxonomy by name (mamoe presets taxonomy), or a YAML "
        "file with the classes (docs/prepare.md, class tables)."
    )


def _is_in_layout(wishes: Wishes, taxonomy: Taxonomy) -> bool:
    """Whether pictures and maps lie in folders of splits, the maps as panoptic PNGs of these classes."""
    if not all((folder / "train").is_dir() for folder in (wishes.images, wishes.maps)):
        return False
    return _is_panoptic(wishes.maps / "train", taxonomy)


def _is_panoptic(folder: Path, taxonomy: Taxonomy) -> bool:
    """Whether the first map of a folder is a panoptic PNG of these classes."""
    names = listed(folder, (".png",), recursive=True).names if folder.is_dir() else ()
    if not names:
        return False
    try:
        return not taxonomy.check(PanopticMap.read(folder / names[0]))
    except DatasetError:
        return False


def _parts(wishes: Wishes) -> dict[str, str]:
    """Where they lie, unless that is where they are looked for anyway."""
    root = wishes.images.parent
    parts = {"images": (wishes.images, root / "images"), "panoptic_maps": (wishes.maps, root / "panoptic")}
    return {key: str(said) for key, (said, usual) in parts.items() if said != usual}


def _import_command(wishes: Wishes, out: Path) -> str:
    words = ["mamoe", "prepare", "import", "folder", str(wishes.images), str(out), "--maps", str(wishes.maps)]
    return shlex.join([*words, *([] if wishes.classes is None else ["--classes", wishes.classes])])


def _data(wishes: Wishes, root: Path, parts: Mapping[str, str], taxonomy: Taxonomy | None) -> str:
    classes = [] if taxonomy is None else [{"override /taxonomy@_global_.taxonomy": wishes.name}]
    content = {
        "defaults": ["folder", *classes, "_self_"],
        "root": str(root),
        **parts,
        "auto_size": list(_SIZES.get(wishes.base, _LARGE)),
        **({"multiple": 16} if wishes.base in _IN_PATCHES else {}),
        **({"num_workers": 0} if wishes.base in SHIPPED_BASES else {}),
    }
    return _yaml("Made by `mamoe init`. Every key of data=folder may be set here (mamoe presets data=folder).", content)


def _experiment(wishes: Wishes, trainer: str | None, taxonomy: Taxonomy | None) -> str:
    chosen = [{"override /data": wishes.name}, {"override /model": wishes.base}]
    chosen += [{"override /trainer": trainer}] if trainer else []
    chosen += [{"override /method": "lora_experts"}] if wishes.base in _BY_ADAPTERS else []
    things = taxonomy is None or any(row.is_thing for row in taxonomy.classes)
    content = {
        "defaults": chosen,
        "name": wishes.name,
        **({} if things else {"layout": {"grouping": PER_CLASS}}),
        **_of_base(wishes),
        "trainer": {"max_steps": wishes.steps or _STEPS.get(wishes.base, _MANY_STEPS)},
    }
    return "# @package _global_\n" + _yaml(f"Made by `mamoe init`: {wishes.base} on {wishes.name}.", content)


def _of_base(wishes: Wishes) -> Mapping[str, Any]:
    """What a base wants beside its own defaults."""
    if wishes.base in _BY_ADAPTERS:
        precision = _frozen_precision(wishes.base, wishes.memory)
        return {
            "objective": {"timesteps": "logit_normal"},
            **({"model": {"frozen_precision": precision}} if precision else {}),
            "data": {"batch_size": 1},
        }
    return {TINY: _OF_TINY, "tiny_dit": _OF_TINY_DIT}.get(wishes.base, {})


def _yaml(about: str, content: Mapping[str, Any]) -> str:
    return f"# {about}\n" + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=1000)
