"""Looking through a whole data set: what is in it and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mamoe.data.files import index_split, list_splits
from mamoe.data.inspection import SplitContents, inspect_split
from mamoe.data.prompts import listed
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError

Progress = Callable[[int, int, str], None]  # called with (files read, files of the split, split)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What every split holds, and all problems and warnings of all splits."""

    taxonomy: Taxonomy
    splits: Mapping[str, SplitContents]

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(problem for contents in self.splits.values() for problem in contents.problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(warning for contents in self.splits.values() for warning in contents.warnings)

    def text(self) -> str:
        """The counts per split, the class shares, warnings and problems (the first fifty of each), as plain lines."""
        lines = [f"{'split':<12}{'pictures':>10}{'prompts':>10}{'instances':>11}{'with prompt':>13}"]
        for split, c in self.splits.items():
            things = sum(int(c.instances[row.id]) for row in self.taxonomy.classes if row.is_thing)
            lines.append(f"{split:<12}{c.images:>10}{c.with_prompt:>10}{things:>11}{c.instance_prompts:>13}")
        lines += ["", f"{'share of pixels':<24}" + "".join(f"{split:>12}" for split in self.splits)]
        rows = [(row.name, row.id) for row in self.taxonomy.classes] + [("void", self.taxonomy.void_id)]
        for name, class_id in rows:
            shares = [c.pixels[class_id] / max(1, c.pixels.sum()) for c in self.splits.values()]
            if any(shares):
                lines.append(f"{name:<24}" + "".join(f"{share:>12.2%}" for share in shares))
        for texts, title in ((self.warnings, "warning(s)"), (self.problems, "problem(s)")):
            if texts:
                lines += ["", f"{len(texts)} {title}:", *listed(texts)]
        return "\n".join(lines)


def check_dataset(
    *,
    images: Path,
    panoptic_maps: Path,
    taxonomy: Taxonomy,
    prompts: Path | None = None,
    instance_prompts: Path | None = None,
    splits: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> DatasetReport:
    """Open every file of the splits (by default all folders inside ``images``).

    ``{split}`` in the paths of the two text files stands for the split.

    Raises:
        DatasetError: there are no splits to look at. Problems inside a split are reported, not raised.
    """
    found = {}
    for split in splits or list_splits(images):
        files = index_split(
            images=images, panoptic_maps=panoptic_maps, split=split, prompts=prompts, instance_prompts=instance_prompts
        )
        found[split] = inspect_split(files, taxonomy, _for_split(progress, split))
    return DatasetReport(taxonomy=taxonomy, splits=found)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """Where the parts of a data set are; ``{split}`` in the two text files' paths stands for the split."""

    images: Path
    panoptic_maps: Path
    prompts: Path | None
    instance_prompts: Path | None
    taxonomy: Taxonomy


def check_folder(folder: Path, taxonomy: Taxonomy | None = None, progress: Progress | None = None) -> DatasetReport:
    """Check a folder in the package's own layout; see :func:`data_folder`.

    Raises:
        DatasetError, ConfigError: nothing says what the folder holds.
    """
    found = data_folder(folder, taxonomy)
    return check_dataset(
        images=found.images,
        panoptic_maps=found.panoptic_maps,
        prompts=found.prompts,
        instance_prompts=found.instance_prompts,
        taxonomy=found.taxonomy,
        progress=progress,
    )


def data_folder(folder: Path, taxonomy: Taxonomy | None = None) -> DataFolder:
    """The parts of a folder in the package's own layout, which ``data.yaml`` inside it describes.

    Without a ``data.yaml`` the usual names serve: ``images``, ``panoptic``, and, where there are any,
    ``prompts_{split}.csv`` and ``instance_prompts_{split}.json``; the taxonomy must then be given.

    Raises:
        DatasetError: no such folder, ``data.yaml`` is wrong, or nothing says which taxonomy holds.
        ConfigError: ``data.yaml`` names a taxonomy that does not exist.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    entries = _read_data_yaml(folder)
    if taxonomy is None and "taxonomy" not in entries:
        raise DatasetError(
            f"{folder} has no data.yaml that names its taxonomy; name one, for example --taxonomy cityscapes."
        )
    return DataFolder(
        images=Path(entries.get("images", folder / "images")),
        panoptic_maps=Path(entries.get("panoptic_maps", folder / "panoptic")),
        prompts=_text_file(entries, "prompts", folder, "prompts_{split}.csv"),
        instance_prompts=_text_file(entries, "instance_prompts", folder, "instance_prompts_{split}.json"),
        taxonomy=taxonomy or Taxonomy.load(entries["taxonomy"]),
    )


def _read_data_yaml(folder: Path) -> Mapping[str, Any]:
    path = folder / "data.yaml"
    if not path.is_file():
        return {}
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"Cannot read {path}: {error}") from None
    if not isinstance(entries, Mapping):
        raise DatasetError(f"{path} must map names to values, such as images: {folder}/images.")
    return entries


def _text_file(entries: Mapping[str, Any], key: str, folder: Path, usual: str) -> Path | None:
    if entries:
        return Path(entries[key]) if entries.get(key) else None
    return folder / usual if any(folder.glob(usual.replace("{split}", "*"))) else None


def _for_split(progress: Progress | None, split: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(done, total, split)
