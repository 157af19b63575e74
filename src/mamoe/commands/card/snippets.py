"""The code on a model card: it runs as it stands, in the folder the card lies in."""

from __future__ import annotations

from mamoe.bases.shipped import PREFIX
from mamoe.commands.card.facts import Facts
from mamoe.data.condition import drawn_kind
from mamoe.vocabulary.taxonomy import ClassInfo

_SEED = "generator=torch.Generator().manual_seed(0)"


def snippet_of(facts: Facts) -> str:
    """Python that draws one picture into ``drawn.png``."""
    if facts.form in ("diffusers-lora", "kohya"):
        return _lora(facts)
    if facts.form == "unet":
        return _unet(facts)
    return _single_file(facts) if facts.form == "single-file" else _stock() if facts.stock else _layout(facts)


def _layout(facts: Facts) -> str:
    height, width = facts.size
    taxonomy, condition = facts.recipe.terms.layout.taxonomy, facts.recipe.terms.condition
    stuff = [row for row in taxonomy.classes if not row.is_thing] or list(taxonomy.classes)
    thing: ClassInfo = next((row for row in taxonomy.classes if row.is_thing), taxonomy.classes[-1])
    given = condition is not None and drawn_kind(condition) is None
    picture = f'\n    condition=Image.new("RGB", ({width}, {height})),  # the picture it is shown; black is none'
    prompt = f"    prompt={stuff[0].prompt!r},\n" if facts.recipe.terms.layout.global_prompt else ""  # it sees no other
    return f"""import numpy as np
import torch
{"from PIL import Image" + chr(10) if given else ""}
from mamoe import LayoutPipeline, PanopticMap

pipe = LayoutPipeline.from_pretrained(".")  # this folder, or its name on the hub
class_id = np.full(({height}, {width}), {stuff[0].id}, np.uint8)  # {stuff[0].name!r}
segment_id = np.zeros(({height}, {width}), np.int32)  # 0: no segment
box = np.s_[{height // 4}:{3 * height // 4}, {width // 4}:{3 * width // 4}]
class_id[box], segment_id[box] = {thing.id}, 256  # {thing.name!r}, with a prompt of its own
picture = pipe(
{prompt}    panoptic=PanopticMap(segment_id=segment_id, class_id=class_id),
    instance_prompts={{256: {thing.prompt!r}}},{picture if given else ""}
    {_SEED},
).images[0]
picture.save("drawn.png")
"""


def _drawn(height_width: str = "") -> str:
    return f"""picture = pipe("a picture", {height_width}{_SEED}).images[0]
picture.save("drawn.png")
"""


def _stock() -> str:
    return f"""import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(".")  # this folder, or its name on the hub
{_drawn()}"""


def _single_file(facts: Facts) -> str:
    kind = "StableDiffusionXLPipeline" if facts.two_encoders else "StableDiffusionPipeline"
    return f"""import torch
from diffusers import {kind}

pipe = {kind}.from_single_file("model.safetensors", config="config")
{_drawn()}"""


def _lora(facts: Facts) -> str:
    name = "kohya_lora.safetensors" if facts.form == "kohya" else "pytorch_lora_weights.safetensors"
    if facts.base.startswith(PREFIX):
        reader, kind = "mamoe", "LayoutPipeline"
    else:
        reader, kind = "diffusers", "DiffusionPipeline"
    return f"""import torch
from {reader} import {kind}

base = {facts.base!r}  # the base model
pipe = {kind}.from_pretrained(base)
pipe.load_lora_weights(".", weight_name={name!r})
{_drawn()}"""


def _unet(facts: Facts) -> str:
    if facts.stock:
        return f"""import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

base = {facts.base!r}  # the base model
pipe = DiffusionPipeline.from_pretrained(base, unet=UNet2DConditionModel.from_pretrained("."))
{_drawn()}"""
    return """from mamoe import MaMoEUNet2DConditionModel

unet = MaMoEUNet2DConditionModel.from_pretrained(".")  # diffusers' own class reads it as the dense model
print(unet.config["num_experts"])
"""
