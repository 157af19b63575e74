"""Asking a vision-language model on this machine, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.asking import Request
from mamoe.prepare.captioning.crops import shrunk
from mamoe.prepare.captioning.items import Progress
from mamoe.prepare.captioning.ledger import Ledger
from mamoe.prepare.captioning.live import Outcome


class LocalModel:
    """A model and what prepares its input.

    Args:
        name: folder or hub id of a model of the kind image-text-to-text, weights as safetensors. Code that comes with a
            model is not run.
        device: where it computes; half precision on a GPU that has it.

    Raises:
        ConfigError: there is no such model, or it is of another kind.
    """

    def __init__(self, name: str, device: str) -> None:
        half = torch.device(device).type == "cuda"
        try:
            processor: Any = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, dtype=torch.bfloat16 if half else torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{name} cannot be read as a model of the kind image-text-to-text with safetensors weights: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]} Give its folder or hub id."
            ) from None
        if getattr(processor, "chat_template", None) is None:
            raise ConfigError(f"{name} has no chat template, so that it is not known how to ask it.")
        self._processor, self._model = processor, model.to(device).eval()
        ends = model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())

    @torch.inference_mode()
    def answer(self, request: Request) -> Reply:
        """Ask once; the likeliest words, or drawn ones where the template has a temperature.

        Raises:
            DatasetError: there is nothing to show.
        """
        template = request.asking.template
        system, prompt = template.messages(request.item.subject)
        image = Image.fromarray(shrunk(request.picture(), template.longest_side))
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        told = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        inputs = self._processor.apply_chat_template(
            [*told, {"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        drawn = {"do_sample": False}
        if template.temperature:
            drawn = {"do_sample": True, "temperature": template.temperature}
        output = self._model.generate(**inputs, max_new_tokens=template.max_tokens, **drawn)
        read = inputs["input_ids"].shape[1]
        written = output[0, read:]
        text = self._processor.decode(written, skip_special_tokens=True)
        finish = "stop" if len(written) and int(written[-1]) in self._ends else "length"
        return Reply(text=text, finish=finish, tokens=(int(read), len(written)))


def ask_local(
    requests: Sequence[Request], model: LocalModel, ledger: Ledger, progress: Progress | None = None
) -> Outcome:
    """Ask everything, one after the other; what comes back stands in the journal."""
    outcome = Outcome.empty()
    for done, request in enumerate(requests, 1):
        ledger.ask(request)
        try:
            ledger.answer(request, model.answer(request))
        except DatasetError as error:
            ledger.settle(request, charged=False)
            outcome.unread[request.item.id] = str(error)
        if progress is not None:
            progress(done, len(requests), "")
    return outcome
