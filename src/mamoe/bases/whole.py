"""Networks whose files hold every weight: libraries make up what is missing, with no more than a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from mamoe.errors import ConfigError
from mamoe.storage.contents import found_instead


def read_whole(kind: Any, place: str, part: str | None = None, *, surplus: bool = True, **options: Any) -> Any:
    """A network of class ``kind``, read by its own ``from_pretrained``.

    Args:
        kind: of diffusers or transformers.
        place: a folder, or a hub id.
        part: the subfolder of it; None: the network lies there itself.
        surplus: the file may hold weights of other networks too, as text encoders' often do.
        options: of ``from_pretrained``.

    Raises:
        ConfigError: weights are missing or of another shape, have no place though there must not be such, or the files
            hold no weights at all, or the configuration is none of this kind.
        OSError: a file is missing, or cannot be read for another reason.
    """
    where = place if part is None else f"{place}/{part}"
    inside = {} if part is None else {"subfolder": part}
    _check_kind(kind, where, place, **inside, **{key: options[key] for key in ("revision",) if key in options})
    try:
        network, info = kind.from_pretrained(place, use_safetensors=True, output_loading_info=True, **inside, **options)
    except (OSError, SafetensorError) as error:
        for file in sorted(Path(where).glob("*.safetensors")):
            if said := found_instead(file):
                raise ConfigError(f"{file} holds no weights: {said}.") from None
        if isinstance(error, SafetensorError):
            raise ConfigError(
                f"{where}: the weights cannot be read ({error}); was a download cut off? Get them again."
            ) from None
        raise
    except (TypeError, RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and not _misfit(error)):
            raise
        raise ConfigError(
            f"{where} cannot be read as a {kind.__name__}: its config.json and its weights do not fit each other "
            f"({_line(error)}). Take both from the same place."
        ) from None
    lost = [("missing_keys", "are missing"), *([] if surplus else [("unexpected_keys", "have no place in it")])]
    problems = [f"{len(info[name])} weights {what}, first {min(info[name])!r}" for name, what in lost if info[name]]
    if problems:
        raise ConfigError(
            f"{where} cannot be read as a {type(network).__name__}: {'; '.join(problems)}. Take the whole network, as "
            "it was published or as this package saved it."
        )
    return network


def _check_kind(kind: Any, where: str, place: str, **version: Any) -> None:
    # Of transformers alone, which make a network of the class that is asked for, of any size, of whatever is not said.
    if not issubclass(kind, PreTrainedModel):
        return
    wanted = str(getattr(kind.config_class, "model_type"))  # noqa: B009 - of a type that is only partly known
    config: Any = PreTrainedConfig.get_config_dict(place, **version)[0]
    told = config.get("model_type")
    # CLIP's, which was saved as the whole of it once.
    if told not in (None, wanted, wanted.removesuffix("_text_model")):
        raise ConfigError(
            f"{where} holds a network of the kind {told} (config.json), and model_index.json names a {kind.__name__}, "
            f"which is of the kind {wanted}. Take both from the same place."
        )


def _misfit(error: RuntimeError) -> bool:
    return "mismatch" in str(error)  # which both libraries say, and no other error does


def _line(error: Exception) -> str:
    """The line of a message that says what does not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)
