"""What `mamoe check` asks of a base model; a check without one loads no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from mamoe.assemble.weights import weights_of
from mamoe.bases.parts import Parts
from mamoe.bases.sources import parts_of
from mamoe.conditioning.encoders import reader_of
from mamoe.errors import ConfigError
from mamoe.methods.options import OPTIONS, FullOptions
from mamoe.prepare.doctor.examine import Model
from mamoe.prepare.doctor.texts import LIMIT, TokenCounter
from mamoe.runs.source import Source


def model_of(place: str, method: str = FullOptions.name) -> Model:
    """The tokenizer of a base model, and how many weights a method trains of its network.

    Raises:
        ConfigError: nothing there has a tokenizer, or there is no such method.
    """
    if method not in OPTIONS:
        raise ConfigError(f"There is no method {method!r}; there are {', '.join(OPTIONS)}.")
    folder, encoder = Path(place), None
    try:
        if (folder / "vocab.json").is_file():
            tokenizers = [CLIPTokenizer.from_pretrained(folder)]
        else:
            parts = parts_of(Source(path=place))
            tokenizers, encoder = _tokenizers(parts), parts.index().get("text_encoder", [None, None])[1]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {place}: no tokenizer can be read there: {error}") from None
    tokenizer, limit = reader_of(*tokenizers, encoder=encoder)
    if isinstance(tokenizer, CLIPTokenizer):  # a folder of its vocabulary alone does not say
        limit = min(LIMIT, int(limit))
    counter = TokenCounter(count=lambda text: len(tokenizer(text, verbose=False).input_ids), limit=limit, name=place)
    configs = [file for part in ("unet", "transformer") if (file := folder / part / "config.json").is_file()]
    return Model(counter=counter, weights=partial(weights_of, configs[0], method) if configs else None)


def _tokenizers(parts: Parts) -> list[Any]:
    index = parts.index()
    encoders = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"}
    there = [part for part, encoder in encoders.items() if index.get(encoder, [None])[0] is not None]
    return [parts.tokenizer(part) for part in there]
