"""Looking through a whole data set: what is in it and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mamoe.console import visible
from mamoe.data.check.split import Closer, SplitContents, inspect_split
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.holdout import SHARE, holds_files
from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import in_lines
from mamoe.data.folder.split import SplitFiles, index_split, list_splits
from mamoe.vocabulary.taxonomy import Taxonomy

Progress = Callable[[int, int, str], None]  # called with (files read, files of the split, split)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What every split holds, and all problems and warnings of all splits."""

    taxonomy: Taxonomy
    splits: Mapping[str, SplitContents]
    notes: tuple[str, ...] = ()  # what was guessed or looks odd, and is no problem
    across: tuple[str, ...] = ()  # warnings about more than one split, or found by a closer look

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(problem for contents in self.splits.values() for problem in contents.problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*(warning for contents in self.splits.values() for warning in contents.warnings), *self.across)

    def text(self) -> str:
        """The counts per split, the class shares, notes, warnings and problems (fifty of each), as plain lines."""
        return "\n".join([*self.counts(), *self.said()])

    def counts(self) -> list[str]:
        """Notes on the whole, the counts of every split, and the share of every class."""
        named = {visible(split): contents for split, contents in self.splits.items()}
        lines = [*(f"Note: {visible(note)}" for note in self.notes)]
        lines += [f"{'split':<12}{'pictures':>10}{'prompts':>10}{'instances':>11}{'with prompt':>13}"]
        for split, c in named.items():
            things = sum(int(c.instances[row.id]) for row in self.taxonomy.classes if row.is_thing)
            lines.append(f"{split:<12}{c.images:>10}{c.with_prompt:>10}{things:>11}{c.instance_prompts:>13}")
        lines += ["", f"{'share of pixels':<24}" + "".join(f"{split:>12}" for split in named)]
        rows = [(row.name, row.id) for row in self.taxonomy.classes] + [("void", self.taxonomy.void_id)]
        for name, class_id in rows:
            shares = [c.pixels[class_id] / max(1, c.pixels.sum()) for c in self.splits.values()]
            if any(shares):
                lines.append(f"{name:<24}" + "".join(f"{share:>12.2%}" for share in shares))
        return lines

    def said(self) -> list[str]:
        """Notes on splits, warnings and problems; the first fifty of each."""
        lines = []
        notes = [note for contents in self.splits.values() for note in contents.notes]
        for texts, title in ((notes, "note(s)"), (self.warnings, "warning(s)"), (self.problems, "problem(s)")):
            if texts:
                lines += ["", f"{len(texts)} {title}:", *in_lines(texts)]
        return lines


def check_dataset(
    *,
    images: Path,
    panoptic_maps: Path,
    taxonomy: Taxonomy,
    prompts: Path | None = None,
    instance_prompts: Path | None = None,
    splits: Sequence[str] | None = None,
    recursive: bool = False,
    progress: Progress | None = None,
    closer: Callable[[str, SplitFiles], Closer] | None = None,
) -> DatasetReport:
    """Open every file of the splits (by default all folders inside ``images``, but for empty ones beside ``train``).

    ``{split}`` in the paths of the two text files stands for the split. ``closer`` makes somebody for every split who
    looks at the pixels too.

    Raises:
        DatasetError: there are no splits to look at. Problems inside a split are reported, not raised.
    """
    found = {}
    for split in splits or _splits_in_use(images):
        files = index_split(
            images=images,
            panoptic_maps=panoptic_maps,
            split=split,
            prompts=prompts,
            instance_prompts=instance_prompts,
            recursive=recursive,
        )
        looks = None if closer is None else closer(split, files)
        found[split] = inspect_split(files, taxonomy, _for_split(progress, split), closer=looks)
    return DatasetReport(taxonomy=taxonomy, splits=found)


def check_folder(
    folder: Path,
    taxonomy: Taxonomy | None = None,
    progress: Progress | None = None,
    closer: Callable[[str, SplitFiles], Closer] | None = None,
) -> DatasetReport:
    """Check a folder in the package's own layout; see :func:`mamoe.data.folder.description.data_folder`.

    Raises:
        DatasetError, ConfigError: what the folder says about itself is wrong, or is not what ``taxonomy`` says.
    """
    found = data_folder(folder, taxonomy)
    report = check_dataset(
        images=found.images,
        panoptic_maps=found.panoptic_maps,
        prompts=found.prompts,
        instance_prompts=found.instance_prompts,
        taxonomy=found.taxonomy,
        recursive=found.recursive,
        progress=progress,
        closer=closer,
    )
    empty = [found.images / split for split in list_splits(found.images) if split not in report.splits]
    aside = [f"There is nothing in {some([str(folder) for folder in empty])}: left aside."] if empty else []
    return replace(report, notes=(*found.notes, *aside, *_lacking_splits(found.images)))


def _splits_in_use(images: Path) -> list[str]:
    """An empty ``val`` is as good as none for a training, and so it is here."""
    there = list_splits(images)
    return [split for split in there if split == "train" or holds_files(images / split)] or there


def _lacking_splits(images: Path) -> list[str]:
    if not holds_files(images / "train"):
        return [f"There is no split 'train' in {images}: a training needs one."]
    if not holds_files(images / "val"):
        return [
            f"There is no split 'val' in {images}: a training holds out {SHARE:.0%} of 'train', see data.val_share."
        ]
    return []


def _for_split(progress: Progress | None, split: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(done, total, split)
