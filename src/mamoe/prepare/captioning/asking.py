"""One question about one picture or object: its name by content, and what is sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.prepare.captioning.crops import jpeg, object_crop, shrunk
from mamoe.prepare.captioning.items import Item
from mamoe.prepare.captioning.template import Template
from mamoe.storage.hashing import short_file_hash, short_hash
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What is the same for all requests."""

    model: str
    template: Template
    margin: float = 0.0  # of crops, see :func:`mamoe.prepare.captioning.crops.object_crop`


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One question as a server takes it."""

    body: dict[str, Any]  # the JSON of a chat completion, the picture inside as a JPEG
    pixels: int  # of the picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question."""

    key: str  # 32 hex digits; the same for the same picture, object, words and model, wherever the files lie
    item: Item
    asking: Asking

    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """What the model is shown, before it is made smaller.

        Raises:
            DatasetError: the picture or its map cannot be read, or they do not fit.
        """
        if self.item.segment is None or self.item.panoptic is None:
            return read_picture(self.item.picture)
        picture, panoptic = _read_pair(self.item.picture, self.item.panoptic)
        try:
            return object_crop(picture, panoptic, self.item.segment, self.asking.margin)
        except ValueError as error:
            raise DatasetError(f"{self.item.panoptic} does not fit {self.item.picture}: {error}.") from None

    def sent(self, limit_key: str = "max_tokens") -> Sent:
        """What goes to a server.

        Args:
            limit_key: what the server calls the most tokens it may write.

        Raises:
            DatasetError: see :meth:`picture`.
        """
        template = self.asking.template
        system, prompt = template.messages(self.item.subject)
        picture = shrunk(self.picture(), template.longest_side)
        data = base64.b64encode(jpeg(picture)).decode()
        image = {"url": f"data:image/jpeg;base64,{data}", "detail": template.detail}
        content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": image}]
        messages = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.asking.model,
            "messages": [*messages, {"role": "user", "content": content}],
            limit_key: template.max_tokens,
        }
        if template.temperature is not None:
            body["temperature"] = template.temperature
        return Sent(body=body, pixels=picture.shape[0] * picture.shape[1])


def requests_for(items: Sequence[Item], asking: Asking) -> list[Request]:
    """A request for every item.

    Raises:
        DatasetError: a file cannot be read.
    """
    return [Request(key=_key(item, asking), item=item, asking=asking) for item in items]


def _key(item: Item, asking: Asking) -> str:
    template = asking.template
    shown = [_content(item.picture)]
    if item.segment is not None and item.panoptic is not None:
        shown += [_content(item.panoptic), item.segment, asking.margin]
    sent = [template.longest_side, template.detail, template.temperature, template.max_tokens]
    return short_hash(json.dumps([asking.model, *template.messages(item.subject), *sent, *shown]), 16)


@lru_cache(maxsize=4)  # objects of one picture follow each other
def _content(path: Path) -> str:
    try:
        return short_file_hash(path)
    except OSError as error:
        raise DatasetError(f"Cannot read {path}: {error.strerror}.") from None


@lru_cache(maxsize=2)
def _read_pair(picture: Path, panoptic: Path) -> tuple[np.ndarray, PanopticMap]:
    return read_picture(picture), read_panoptic(panoptic)
