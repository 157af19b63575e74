"""Segmentation networks from transformers, by hub name or local folder, read in the classes of our taxonomy.

Their labels are matched by name: "car, auto" of one data set is "car" of another. A class that no label names is not
known to the network, and its scores say so; a label that is none of our classes counts as void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mamoe.errors import ConfigError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.panoptic_quality import VOID, Reading
from mamoe.prepare.annotations import connected_components
from mamoe.prepare.segment.labels import matched
from mamoe.prepare.segment.networks import MASK2FORMER, ONEFORMER, SEGFORMER, Loaded, describe, load_transformers
from mamoe.storage.fingerprints import weights_hash

KINDS = (MASK2FORMER, ONEFORMER, SEGFORMER)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labeller:
    """A network from transformers."""

    loaded: Loaded
    number_of_label: UInt8[np.ndarray, "L"]  # the network's label -> our class number, or VOID
    classes: Classes
    identity: str

    @property
    def panoptic(self) -> bool:
        """It tells instances apart itself."""
        return self.loaded.finds_things

    @property
    def unknown(self) -> frozenset[int]:
        """Numbers of the classes no label names."""
        return frozenset(range(len(self.classes))) - {int(number) for number in self.number_of_label}

    @torch.no_grad()
    def read(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Reading]:
        """Classes and instances of pictures u8 of any sizes, one by one."""
        return [self._read(image) for image in images]

    def _read(self, image: np.ndarray) -> Reading:
        outputs = self.loaded.outputs([Image.fromarray(image)])
        size = [image.shape[:2]]
        tools = getattr(self.loaded.processor, "image_processor", self.loaded.processor)
        labels = tools.post_process_semantic_segmentation(outputs, target_sizes=size)[0].cpu().numpy()
        numbers = self.number_of_label[labels]
        if not self.panoptic:
            instances = connected_components(numbers, sorted(self.classes.things))
            return Reading(labels=numbers, class_id=numbers, segment_id=instances)
        stuff = {
            int(i) for i in range(len(self.number_of_label)) if int(self.number_of_label[i]) not in self.classes.things
        }
        found = tools.post_process_panoptic_segmentation(outputs, target_sizes=size, label_ids_to_fuse=stuff)[0]
        return self._segments(numbers, found["segmentation"].cpu().numpy(), found["segments_info"])

    def _segments(self, labels: np.ndarray, segmentation: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> Reading:
        numbers = np.full(segmentation.shape, VOID, dtype=np.uint8)
        segments = np.zeros(segmentation.shape, dtype=np.int32)
        for place, info in enumerate(infos, start=1):
            mask = segmentation == info["id"]
            numbers[mask] = self.number_of_label[info["label_id"]]
            segments[mask] = place
        return Reading(labels=labels, class_id=numbers, segment_id=segments)


def load_labeller(source: str, classes: Classes, device: str = "cpu") -> Labeller:
    """A segmentation network by hub name or local folder.

    Raises:
        ConfigError: it cannot be loaded, is of another kind, or none of its labels is a class of the taxonomy.
    """
    described = describe(source)
    if described.kind not in KINDS:
        raise ConfigError(f"The segmenter {source} is a {described.kind}; wanted one of {', '.join(KINDS)}.")
    names = described.labels
    numbers = np.array([VOID if i is None else i for i in matched(names, classes.names)], dtype=np.uint8)
    if (numbers == VOID).all():
        raise ConfigError(
            f"None of the labels of the segmenter {source} is a class of this data set. Labels: "
            f"{', '.join(names[:12])}; classes: {', '.join(classes.names[:12])}."
        )
    loaded = load_transformers(source, device)
    return Labeller(
        loaded=loaded,
        number_of_label=numbers,
        classes=classes,
        identity=f"{loaded.kind.partition('For')[0]} {weights_hash(loaded.network)}",
    )
