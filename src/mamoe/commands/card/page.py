"""The card as Markdown: README.md, as model hubs show it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jinja2
import yaml

from mamoe.commands.card.facts import Facts
from mamoe.commands.card.snippets import snippet_of

CARD = "README.md"
PICTURE = "picture.png"
_MARKS = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "`": "\\`", "[": "\\[", "]": "\\]"})


def write_card(facts: Facts, folder: Path) -> None:
    """Write README.md and, where there is one, picture.png into a folder."""
    if facts.picture is not None:
        shutil.copyfile(facts.picture, folder / PICTURE)
    (folder / CARD).write_text(card_text(facts), encoding="utf-8")


def card_text(facts: Facts) -> str:
    """The card of a model."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mamoe.commands.card", "."),
        autoescape=False,  # Markdown; what data say goes through ``plain``
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    layout, scheduler = facts.recipe.terms.layout, facts.recipe.scheduler
    names = layout.experts.names if layout.moe else ("rest",)
    experts = {
        row.id: names[layout.experts.expert_of_class[row.id]] if layout.moe else "-" for row in layout.taxonomy.classes
    }
    text = environment.get_template("card.md.j2").render(
        facts=facts,
        front_matter=_front_matter(facts),
        snippet=snippet_of(facts),
        taxonomy=layout.taxonomy,
        experts=experts,
        base_link=f"https://huggingface.co/{facts.base}" if facts.base_on_hub else "#base-model-and-licence",
        prediction=scheduler.get("prediction_type", "epsilon"),
        zero_snr=scheduler.get("rescale_betas_zero_snr", False),
    )
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def plain(value: Any) -> str:
    """A value as it stands in Markdown, whatever it says: one line, no marks, no tags."""
    return str(value).translate(_MARKS)


def _front_matter(facts: Facts) -> str:
    lora = facts.form in ("diffusers-lora", "kohya")
    about: dict[str, Any] = {
        "license": facts.licence[0] if facts.licence else "unknown",
        "library_name": "diffusers" if facts.stock else "mamoe",
        "pipeline_tag": "text-to-image",
        "tags": ["mamoe", "stable-diffusion", *(["lora"] if lora else [])],
    }
    if facts.base_on_hub:
        about |= {"base_model": facts.base, "base_model_relation": "adapter" if lora else "finetune"}
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
