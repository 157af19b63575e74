"""What `mamoe check` asks of a base model; a check without one loads no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import CLIPTokenizer

from mamoe.assemble.weights import weights_of
from mamoe.bases.sources import parts_of
from mamoe.errors import ConfigError
from mamoe.methods.options import OPTIONS, FullOptions
from mamoe.prepare.doctor.examine import Model
from mamoe.prepare.doctor.texts import LIMIT, TokenCounter
from mamoe.runs.source import Source


def model_of(place: str, method: str = FullOptions.name) -> Model:
    """The tokenizer of a base model, and how many weights a method trains of its UNet.

    Raises:
        ConfigError: nothing there has a tokenizer, or there is no such method.
    """
    if method not in OPTIONS:
        raise ConfigError(f"There is no method {method!r}; there are {', '.join(OPTIONS)}.")
    folder = Path(place)
    try:
        if (folder / "vocab.json").is_file():
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        else:
            tokenizer = parts_of(Source(path=place)).tokenizer("tokenizer")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {place}: no tokenizer can be read there: {error}") from None
    limit = min(LIMIT, int(tokenizer.model_max_length))
    counter = TokenCounter(count=lambda text: len(tokenizer(text, verbose=False).input_ids), limit=limit, name=place)
    unet = folder / "unet/config.json"
    return Model(counter=counter, weights=partial(weights_of, unet, method) if unet.is_file() else None)
