"""The data set: pictures, maps and prompts on disk become samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from mamoe.data.condition import drawn_condition, drawn_kind
from mamoe.data.encoded import LatentCache, content_of_picture
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.folder.split import SampleFiles, index_split
from mamoe.data.geometry.joint import Geometry, Placement
from mamoe.data.naming import naming
from mamoe.data.reading.pictures import picture_size, read_picture
from mamoe.errors import ConfigError, DatasetError
from mamoe.randomness import derive_seed, seeded
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.panoptic import PanopticMap, decode_panoptic, read_panoptic_rgb
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.taxonomy import Taxonomy

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
        geometry: joint geometry of pictures, maps and condition pictures.
        seed: of the augmentation.
        condition: what to show to methods with a picture input: ``classes`` or ``edges``, drawn from the map, or a
            folder with one folder of pictures per split, named as the pictures. None: nothing.
        recursive: pictures lie in folders inside that of the split, and so do their maps and condition pictures.
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
        condition: str | None = None,
        recursive: bool = False,
    ) -> None:
        self.split = split
        self.folder = Path(images) / split
        self.taxonomy = taxonomy
        self.geometry = geometry if split == TRAIN_SPLIT else geometry.for_evaluation()
        self.seed = seed
        self.drawn = drawn_kind(condition)
        self.files = index_split(
            images=Path(images),
            panoptic_maps=Path(panoptic_maps),
            split=split,
            prompts=None if prompts is None else Path(prompts),
            instance_prompts=None if instance_prompts is None else Path(instance_prompts),
            conditions=None if condition is None or self.drawn is not None else Path(condition),
            recursive=recursive,
        )
        self.keys = tuple(sample.key for sample in self.files.samples)
        self._latents: LatentCache | None = None
        self._contents: tuple[str, ...] = ()

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
            Exception: whatever else goes wrong, with the sample's files in its message or its notes.
        """
        epoch, index = item if isinstance(item, tuple) else (0, item)
        if not 0 <= index < len(self):
            raise IndexError(f"The split {self.split!r} has {len(self)} samples, there is no number {index}.")
        self._raise(self.files.problems)
        with naming(self.files.samples[index]):
            return self._sample(epoch, index)

    def _sample(self, epoch: int, index: int) -> Sample:
        files = self.files.samples[index]
        with seeded(derive_seed(self.seed, "augment", epoch, index)):
            read = self._pixels(files) if self._latents is None else self._encoded(files, index)
            pixels, moments, planes, condition, framing = read

        panoptic = _decode(planes, files)
        if unknown := self.taxonomy.check(panoptic):  # the check saw to that, unless the map was changed since
            raise DatasetError(f"{files.panoptic}: {unknown[0]}.")
        if self.drawn is not None:
            condition = _planes(drawn_condition(panoptic, self.taxonomy, self.drawn)).contiguous()
        return Sample(
            key=files.key,
            index=index,
            epoch=epoch,
            image=pixels,
            moments=moments,
            panoptic=panoptic,
            prompts=visible_prompts(files.prompts, panoptic),
            framing=framing,
            condition=condition,
        )

    def _pixels(self, files: SampleFiles) -> tuple[Tensor, None, Tensor, Tensor | None, Framing]:
        image, rgb = read_picture(files.image), _read_map(files)
        _require_one_size(files, image.shape[:2], rgb)
        pair, shown = (_planes(image), _planes(rgb)), _read_condition(files, image.shape[:2])
        pixels, planes, condition, framing = self.geometry.with_condition(*pair, shown, self.taxonomy.void_id)
        return pixels, None, planes, condition, framing

    def _encoded(self, files: SampleFiles, index: int) -> tuple[None, Tensor, Tensor, Tensor | None, Framing]:
        assert self._latents is not None
        original, rgb = picture_size(files.image), _read_map(files)
        _require_one_size(files, original, rgb)
        shown = _read_condition(files, original)
        placement = self.geometry.draw(*original)
        moments = self._latents.get(self._contents[index], placement)
        condition = None if shown is None else placement.picture(shown)
        return None, moments, placement.planes(_planes(rgb)), condition, placement.framing(original)

    def first(self, count: int) -> LayoutDataset:
        """The same data set with its first ``count`` samples alone."""
        return self.only(range(len(self))[:count])

    def only(self, places: Sequence[int]) -> LayoutDataset:
        """The same data set with the samples at ``places`` alone."""
        files = replace(self.files, samples=tuple(self.files.samples[place] for place in places))
        return self._changed(files=files, keys=tuple(self.keys[place] for place in places))

    def unaugmented(self, split: str | None = None) -> LayoutDataset:
        """The same data set as a split that is not trained on would show it, and called so if ``split`` names one."""
        return self._changed(geometry=self.geometry.for_evaluation(), split=split or self.split)

    def encoded(self, latents: LatentCache) -> LayoutDataset:
        """The same data set with samples that carry ``moments`` from the cache; no picture is decoded for them.

        Every picture's file is read once, now, for the hash it is looked up by.

        Raises:
            ConfigError: its geometry cannot be cached.
            DatasetError: a picture cannot be read.
        """
        if (reason := self.geometry.unpredictable) is not None:
            raise ConfigError(f"The split {self.split!r} cannot use a cache of latents: {reason}.")
        with ThreadPoolExecutor() as pool:
            contents = tuple(pool.map(content_of_picture, (files.image for files in self.files.samples)))
        return self._changed(_latents=latents, _contents=contents)

    def missing(self) -> list[tuple[int, Placement]]:
        """The entries that the cache still lacks: an index and a placement each."""
        assert self._latents is not None, "only an encoded data set has a cache"
        pairs = zip(self._contents, self.files.samples, strict=True)
        return [
            (index, placement)
            for index, (content, files) in enumerate(pairs)
            for placement in self.geometry.variants(*picture_size(files.image))
            if not self._latents.has(content, placement)
        ]

    def content(self, index: int) -> str:
        """The hash of a picture's file, of an encoded data set."""
        return self._contents[index]

    def placed_picture(self, index: int, placement: Placement) -> UInt8[Tensor, "3 H W"]:
        """One picture as a placement shows it."""
        files = self.files.samples[index]
        with naming(files):
            return placement.picture(_planes(read_picture(files.image)))

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of every sample, from the headers of the pictures alone.

        Raises:
            DatasetError: lists every picture that cannot be read.
        """
        found, problems = [], []
        for files in self.files.samples:
            try:
                found.append(self.geometry.size_of(*picture_size(files.image)))
            except DatasetError as error:
                problems.append(str(error))
        self._raise(tuple(problems))
        return found

    def _changed(self, **attributes: Any) -> LayoutDataset:
        other = copy(self)
        other.__dict__.update(attributes)
        return other

    def _raise(self, problems: tuple[str, ...]) -> None:
        raise_problems(list(problems), f"The split {self.split!r}")


def visible_prompts(prompts: RegionPrompts, panoptic: PanopticMap) -> RegionPrompts:
    """The prompts without those of segments that are not in the map, for example because they were cropped away."""
    visible = np.bincount(panoptic.segment_id.ravel())
    kept = {i: prompt for i, prompt in prompts.by_segment.items() if i < len(visible) and visible[i]}
    return RegionPrompts(global_prompt=prompts.global_prompt, by_segment=kept)


def _read_map(files: SampleFiles) -> UInt8[np.ndarray, "H W 3"]:
    if files.panoptic is None:
        raise DatasetError(f"The picture {files.image} has no panoptic map.")
    return read_panoptic_rgb(files.panoptic)


def _require_one_size(files: SampleFiles, picture: tuple[int, ...], rgb: np.ndarray) -> None:
    if picture != rgb.shape[:2]:
        sizes = f"(height, width) {rgb.shape[:2]}, but its picture {files.image} has {picture}"
        raise DatasetError(f"{files.panoptic} has {sizes}.")


def _read_condition(files: SampleFiles, size: tuple[int, ...]) -> Tensor | None:
    if files.condition is None:
        return None
    picture = read_picture(files.condition)
    if picture.shape[:2] != size:
        sizes = f"(height, width) {picture.shape[:2]}, but its picture {files.image} has {size}"
        raise DatasetError(f"{files.condition} has {sizes}.")
    return _planes(picture)


def _planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode(planes: torch.Tensor, files: SampleFiles) -> PanopticMap:
    try:
        return decode_panoptic(planes.permute(1, 2, 0).numpy())
    except ValueError as error:
        raise DatasetError(f"The panoptic map {files.panoptic} is wrong: {error}") from None
