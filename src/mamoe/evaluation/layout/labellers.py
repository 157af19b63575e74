"""Segmentation networks from transformers, by hub name or local folder, read in the classes of our taxonomy.

Their labels are matched by name: "car, auto" of one data set is "car" of another. A class that no label names is not
known to the network, and its scores say so; a label that is none of our classes counts as void.
"""

from __future__ import annotations

import re
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
from mamoe.storage.fingerprints import weights_hash

KINDS = ("Mask2FormerForUniversalSegmentation", "OneFormerForUniversalSegmentation", "SegformerForSemanticSegmentation")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labeller:
    """A network from transformers."""

    network: Any
    processor: Any
    number_of_label: UInt8[np.ndarray, "L"]  # the network's label -> our class number, or VOID
    classes: Classes
    panoptic: bool  # it tells instances apart itself
    identity: str

    @property
    def unknown(self) -> frozenset[int]:
        """Numbers of the classes no label names."""
        return frozenset(range(len(self.classes))) - {int(number) for number in self.number_of_label}

    @torch.no_grad()
    def read(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Reading]:
        """Classes and instances of pictures u8 of any sizes, one by one."""
        return [self._read(image) for image in images]

    def _read(self, image: np.ndarray) -> Reading:
        task = {"task_inputs": ["panoptic"]} if "OneFormer" in type(self.network).__name__ else {}
        inputs = self.processor(images=Image.fromarray(image), return_tensors="pt", **task)
        wanted = ("pixel_values", "pixel_mask", "task_inputs")
        given = {name: inputs[name].to(self.network.device) for name in wanted if name in inputs}
        outputs = self.network(**given)
        size = [image.shape[:2]]
        tools = getattr(self.processor, "image_processor", self.processor)
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
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
    from transformers.models.auto.modeling_auto import AutoModelForSemanticSegmentation
    from transformers.models.auto.modeling_auto import AutoModelForUniversalSegmentation as Universal

    try:
        config = AutoConfig.from_pretrained(source)
        kind = next(iter(config.architectures or ()), None)
        if kind not in KINDS:
            raise ConfigError(f"The segmenter {source} is a {kind}; wanted one of {', '.join(KINDS)}.")
        family = AutoModelForSemanticSegmentation if kind == KINDS[2] else Universal
        network = family.from_pretrained(source, use_safetensors=True).to(device).eval()
        processor = (AutoProcessor if kind == KINDS[1] else AutoImageProcessor).from_pretrained(source)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot load the segmenter {source}: {str(error).splitlines()[0]} Give a local folder, or `domain` for a "
            "small one learned from the data set."
        ) from None
    labels: dict[int, str] = config.id2label  # type: ignore[assignment]
    names = [str(labels[i]) for i in range(len(labels))]
    numbers = matched(names, classes.names)
    if (numbers == VOID).all():
        raise ConfigError(
            f"None of the labels of the segmenter {source} is a class of this data set. Labels: "
            f"{', '.join(names[:12])}; classes: {', '.join(classes.names[:12])}."
        )
    return Labeller(
        network=network,
        processor=processor,
        number_of_label=numbers,
        classes=classes,
        panoptic=kind != KINDS[2],
        identity=f"{kind.partition('For')[0]} {weights_hash(network)}",
    )


def matched(labels: Sequence[str], names: Sequence[str]) -> UInt8[np.ndarray, "L"]:
    """The class number of every label, ``VOID`` for those of no class: equal names, or one of a label's synonyms.

    Case, spaces, hyphens, plural and COCO's endings "-merged", "-other" and "-stuff" do not matter.
    """
    ours = {_plain(name): number for number, name in enumerate(names)}
    found = []
    for label in labels:
        synonyms = [_plain(label), *(_plain(part) for part in re.split(r"[,;/]", label))]
        found.append(next((ours[word] for word in synonyms if word in ours), VOID))
    return np.array(found, dtype=np.uint8)


def _plain(name: str) -> str:
    word = re.sub(r"-(merged|other|stuff)\b", "", name.lower())
    word = re.sub(r"[^a-z0-9]", "", word)
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
