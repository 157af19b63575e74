"""Networks that segment pictures: of transformers by hub name or folder, or the one `mamoe evaluate` learns itself.

Weights are safetensors; code that comes with a model is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.machine.precision import drawing_format
from mamoe.models.segmenter import Segmenter
from mamoe.models.segmenter_files import MANIFEST, WEIGHTS, read_segmenter
from mamoe.prepare.job import file_stamp

MASK2FORMER = "Mask2FormerForUniversalSegmentation"
ONEFORMER = "OneFormerForUniversalSegmentation"
EOMT = "EomtForUniversalSegmentation"
SEGFORMER = "SegformerForSemanticSegmentation"
KINDS = (MASK2FORMER, ONEFORMER, EOMT, SEGFORMER)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Queries:
    """What a network that finds segments says: each query is a segment, or nothing."""

    probabilities: Float[Tensor, "Q answers"]  # of every label; after them: there is nothing
    masks: Float[Tensor, "Q h w"]  # logits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answer:
    """What a network says of a picture, in its own labels and at its own size."""

    scores: Float[Tensor, "L h w"]  # logits where there are no queries, else sums of probabilities
    queries: Queries | None


class Network(Protocol):
    """What segments pictures."""

    @property
    def finds_things(self) -> bool:
        """It tells single things apart."""
        ...

    def answers(self, images: UInt8[np.ndarray, "B H W 3"]) -> list[Answer]:
        """What it says of pictures of one size."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """A network of transformers with what prepares its input."""

    network: Any
    processor: Any
    kind: str  # one of ``KINDS``

    @property
    def finds_things(self) -> bool:
        return self.kind != SEGFORMER

    @property
    def task(self) -> dict[str, list[str]]:
        """What the processor is to be told beside a picture."""
        return {"task_inputs": ["panoptic"]} if self.kind == ONEFORMER else {}

    def outputs(self, images: Sequence[Image.Image], **how: Any) -> Any:
        """The network's own outputs for pictures of one size."""
        tasks = {name: words * len(images) for name, words in self.task.items()}
        inputs = self.processor(images=list(images), return_tensors="pt", **tasks, **how)
        wanted = ("pixel_values", "pixel_mask", "task_inputs")
        device = self.network.device
        return self.network(**{name: inputs[name].to(device) for name in wanted if name in inputs})

    @torch.no_grad()
    def answers(self, images: UInt8[np.ndarray, "B H W 3"]) -> list[Answer]:
        shown, part, how = [Image.fromarray(image) for image in images], (1.0, 1.0), {}
        if self.kind == EOMT:  # takes one size alone; its processor would cut or pad, as the picture's shape has it
            shown, part = _fitted(shown, self.network.config.image_size)
            how = {"do_resize": False, "do_pad": False, "do_split_image": False}
        device = torch.device(self.network.device)
        dtype = drawing_format(str(device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = self.outputs(shown, **how)
        if self.kind == SEGFORMER:
            return [Answer(scores=scores, queries=None) for scores in output.logits.float()]
        found = []
        for logits, masks in zip(output.class_queries_logits.float(), output.masks_queries_logits.float(), strict=True):
            height, width = (max(1, round(n * share)) for n, share in zip(masks.shape[1:], part, strict=True))
            inside = masks[:, :height, :width]
            queries = Queries(probabilities=logits.softmax(-1), masks=inside)
            scores = torch.einsum("ql,qhw->lhw", queries.probabilities[:, :-1], inside.sigmoid())
            found.append(Answer(scores=scores, queries=queries))
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Learned:
    """The domain segmenter."""

    segmenter: Segmenter
    finds_things: bool = False

    def answers(self, images: UInt8[np.ndarray, "B H W 3"]) -> list[Answer]:
        return [Answer(scores=scores, queries=None) for scores in self.segmenter.scores(images)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What can be known of a network without its weights."""

    kind: str
    labels: tuple[str, ...]
    version: str  # other once the files of the network are


def describe(source: str) -> Described:
    """A network's labels.

    Raises:
        ConfigError: it cannot be read, or is of another kind.
    """
    folder = Path(source)
    if (folder / WEIGHTS).is_file():
        read = read_segmenter(folder)
        if read is None:
            raise ConfigError(f"The segmenter in {source} is damaged: {WEIGHTS} and {MANIFEST} do not fit.")
        return Described(kind="domain segmenter", labels=tuple(read[1]["classes"]), version=read[1]["weights"])
    config, kind = _config(source)
    names = {int(i): str(name) for i, name in config.id2label.items()}
    stamps = [file_stamp(path) for path in sorted(folder.glob("*"))] if folder.is_dir() else []
    version = repr(stamps) if stamps else str(getattr(config, "_commit_hash", None))
    return Described(kind=kind, labels=tuple(names[i] for i in range(len(names))), version=version)


def load_network(source: str, device: str) -> Network:
    """A network by hub name or folder, ready to answer.

    Raises:
        ConfigError: it cannot be loaded, or is of another kind.
    """
    if (Path(source) / WEIGHTS).is_file():
        read = read_segmenter(Path(source))
        if read is None:
            raise ConfigError(f"The segmenter in {source} is damaged: {WEIGHTS} and {MANIFEST} do not fit.")
        return Learned(segmenter=read[0].to(device))
    if Path(source).is_absolute() and not Path(source).is_dir():  # no hub name: the hub's library speaks of its form
        raise _unloadable(source, FileNotFoundError("there is no such folder."))
    return load_transformers(source, device)


def load_transformers(source: str, device: str) -> Loaded:
    """A network of transformers.

    Raises:
        ConfigError: it cannot be loaded, or is of another kind.
    """
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.models.auto.modeling_auto import AutoModelForSemanticSegmentation
    from transformers.models.auto.modeling_auto import AutoModelForUniversalSegmentation as Universal

    _, kind = _config(source)
    family = AutoModelForSemanticSegmentation if kind == SEGFORMER else Universal
    tools = AutoProcessor if kind == ONEFORMER else AutoImageProcessor
    try:
        network = family.from_pretrained(source, use_safetensors=True, trust_remote_code=False)
        processor = tools.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from None
    return Loaded(network=network.to(device).eval(), processor=processor, kind=kind)


def _config(source: str) -> tuple[Any, str]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from None
    kind = next(iter(config.architectures or ()), None)
    if kind not in KINDS:
        raise ConfigError(f"The segmenter {source} is a {kind}; wanted one of {', '.join(KINDS)}.")
    return config, kind


def _unloadable(source: str, error: Exception) -> ConfigError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"Cannot load the segmenter {source}: {why} Give a hub name, a folder with safetensors weights, or the "
        "folder of a domain segmenter, which `mamoe evaluate` learns from a data set."
    )


def _fitted(images: Sequence[Image.Image], side: Any) -> tuple[list[Image.Image], tuple[float, float]]:
    """Pictures of one size, as large as fits, in the upper left corner of black ones of the size the network takes;
    and the share of height and width they fill."""
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    scale = min(height / images[0].height, width / images[0].width)
    size = max(1, round(images[0].width * scale)), max(1, round(images[0].height * scale))
    fitted = []
    for image in images:
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR))
        fitted.append(canvas)
    return fitted, (size[1] / height, size[0] / width)
