"""The data set: pictures, maps and prompts on disk become samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from mamoe.data.files import SampleFiles, index_split
from mamoe.data.inspection import SplitContents, inspect_split
from mamoe.data.panoptic import decode_panoptic, read_panoptic_rgb
from mamoe.data.pictures import read_picture
from mamoe.data.prompts import raise_problems
from mamoe.data.transforms import Geometry
from mamoe.randomness import derive_seed
from mamoe.taxonomy import Taxonomy
from mamoe.tensors import Sample
from mamoe.types import DatasetError, PanopticMap, RegionPrompts

TRAIN_SPLIT = "train"


class LayoutDataset(Dataset[Sample]):
    """One split of a data set, in the order of the numbers in the file names.

    ``dataset[i]`` is sample i of epoch 0, ``dataset[epoch, i]`` that of another epoch: the same pair always gives the
    same pixels, whoever asks and in whatever order. Only the split ``train`` is augmented; every other one uses
    ``geometry.for_evaluation()``.

    Args:
        images: folder with one folder of pictures per split.
        panoptic_maps: folder with one folder of panoptic PNGs per split, named as the pictures.
        split: name of the folder to read.
        prompts: prompts CSV; ``{split}`` in the path stands for the split. None: every global prompt is empty.
        instance_prompts: instance prompts JSON, path as above. None: there are none.
        taxonomy: the class ids the maps may hold.
        geometry: joint geometry of pictures and maps.
        seed: of the augmentation.
    """

    def __init__(
        self,
        *,
        images: str | Path,
        panoptic_maps: str | Path,
        split: str,
        prompts: str | Path | None,
        instance_prompts: str | Path | None,
        taxonomy: Taxonomy,
        geometry: Geometry,
        seed: int,
    ) -> None:
        self.split = split
        self.taxonomy = taxonomy
        self.geometry = geometry if split == TRAIN_SPLIT else geometry.for_evaluation()
        self.seed = seed
        self.files = index_split(
            images=Path(images),
            panoptic_maps=Path(panoptic_maps),
            split=split,
            prompts=None if prompts is None else Path(prompts),
            instance_prompts=None if instance_prompts is None else Path(instance_prompts),
        )
        self.keys = tuple(sample.key for sample in self.files.samples)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def prompts(self) -> tuple[RegionPrompts, ...]:
        """What the user wrote about every picture, in their order."""
        return tuple(sample.prompts for sample in self.files.samples)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        """Sample ``index`` of epoch 0, or ``(epoch, index)``.

        Raises:
            IndexError: no sample has that index.
            DatasetError: the split has problems, or a file of this sample cannot be read.
        """
        epoch, index = item if isinstance(item, tuple) else (0, item)
        if not 0 <= index < len(self):
            raise IndexError(f"The split {self.split!r} has {len(self)} samples, there is no number {index}.")
        self._raise(self.files.problems)
        files = self.files.samples[index]
        image, rgb = _read_pair(files)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "augment", epoch, index))
            pixels, planes, framing = self.geometry(_planes(image), _planes(rgb), self.taxonomy.void_id)

        panoptic = _decode(planes, files)
        return Sample(
            key=files.key,
            index=index,
            epoch=epoch,
            image=pixels,
            panoptic=panoptic,
            prompts=visible_prompts(files.prompts, panoptic),
            framing=framing,
        )

    def check(self, progress: Callable[[int, int], None] | None = None) -> SplitContents:
        """Open every file and return what the split holds.

        Raises:
            DatasetError: lists every problem found: missing, unreadable or contradicting files, sizes that differ,
                unknown class ids, prompts without pictures, pictures without prompts, prompts of absent segments.
        """
        contents = inspect_split(self.files, self.taxonomy, progress)
        self._raise(contents.problems)
        return contents

    def _raise(self, problems: tuple[str, ...]) -> None:
        raise_problems(list(problems), f"The split {self.split!r}")


def visible_prompts(prompts: RegionPrompts, panoptic: PanopticMap) -> RegionPrompts:
    """The prompts without those of segments that are not in the map, for example because they were cropped away."""
    visible = np.bincount(panoptic.segment_id.ravel())
    kept = {i: prompt for i, prompt in prompts.by_segment.items() if i < len(visible) and visible[i]}
    return RegionPrompts(global_prompt=prompts.global_prompt, by_segment=kept)


def _read_pair(files: SampleFiles) -> tuple[np.ndarray, np.ndarray]:
    if files.panoptic is None:
        raise DatasetError(f"The picture {files.image} has no panoptic map.")
    image, rgb = read_picture(files.image), read_panoptic_rgb(files.panoptic)
    if image.shape != rgb.shape:
        sizes = f"(height, width) {rgb.shape[:2]}, but its picture {files.image} has {image.shape[:2]}"
        raise DatasetError(f"{files.panoptic} has {sizes}.")
    return image, rgb


def _planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode(planes: torch.Tensor, files: SampleFiles) -> PanopticMap:
    try:
        return decode_panoptic(planes.permute(1, 2, 0).numpy())
    except ValueError as error:
        raise DatasetError(f"The panoptic map {files.panoptic} is wrong: {error}") from None
