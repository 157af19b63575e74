"""A network's labels as classes of a taxonomy: by name, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mamoe.errors import ConfigError, nearest
from mamoe.storage.yaml_file import read_yaml
from mamoe.vocabulary.taxonomy import Taxonomy

VOID = "void"


def matched(labels: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """The place in ``names`` of every label, None for those of no class: equal names, or one of a label's synonyms.

    Case, spaces, hyphens, plural and COCO's endings "-merged", "-other" and "-stuff" do not matter.
    """
    ours = {_plain(name): number for number, name in enumerate(names)}
    found = []
    for label in labels:
        synonyms = [_plain(label), *(_plain(part) for part in re.split(r"[,;/]", label))]
        found.append(next((ours[word] for word in synonyms if word in ours), None))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What a network's labels mean."""

    labels: tuple[str, ...]
    class_of: tuple[int, ...]  # class id of every label, or the taxonomy's void
    taxonomy: Taxonomy

    @property
    def of_label(self) -> UInt8[np.ndarray, "L"]:
        return np.array(self.class_of, dtype=np.uint8)

    @property
    def knows_stuff(self) -> bool:
        """A label is a class of stuff: the network says something of every pixel, not of single things alone."""
        known = set(self.class_of)
        return any(row.id in known and not row.is_thing for row in self.taxonomy.classes)

    def text(self) -> str:
        """Which label is which class, which labels are none, which classes have none; as lines."""
        names = {row.id: row.name for row in self.taxonomy.classes}
        pairs = [(label, names[i]) for label, i in zip(self.labels, self.class_of, strict=True) if i in names]
        rest = [label for label, i in zip(self.labels, self.class_of, strict=True) if i not in names]
        unheard = [row.name for row in self.taxonomy.classes if row.id not in set(self.class_of)]
        lines = [f"{len(pairs)} of the network's {len(self.labels)} labels are classes of {self.taxonomy.name}:"]
        lines += [f"  {label} -> {name}" for label, name in pairs]
        if rest:
            lines.append(f"Labels that become void (--map LABEL=CLASS changes that): {'; '.join(rest)}")
        if unheard:
            lines.append(f"Classes that no label means, so that no pixel will have them: {', '.join(unheard)}")
        return "\n".join(lines)


def meaning_of(labels: Sequence[str], taxonomy: Taxonomy, said: Mapping[str, str], model: str) -> Meaning:
    """What labels mean: as ``said``, else by name; see :func:`matched`.

    Args:
        labels: the network's, in their order.
        taxonomy: the classes.
        said: class name, or "void", by label.
        model: for messages.

    Raises:
        ConfigError: ``said`` has a label or class that is not there, or no label is a class.
    """
    ids = {row.name: row.id for row in taxonomy.classes} | {VOID: taxonomy.void_id}
    problems = [f"{model} has no label {word!r}{_meant(word, labels)}" for word in said if word not in labels]
    problems += [
        f"the taxonomy {taxonomy.name} has no class {word!r}{_meant(word, list(ids))}"
        for word in said.values()
        if word not in ids
    ]
    if problems:
        raise ConfigError(f"--map: {'; '.join(problems)}.")
    rows = taxonomy.classes
    places = matched(labels, [row.name for row in rows])
    found = [taxonomy.void_id if place is None else rows[place].id for place in places]
    class_of = tuple(
        ids[said[label]] if label in said else class_id for label, class_id in zip(labels, found, strict=True)
    )
    if all(class_id == taxonomy.void_id for class_id in class_of):
        raise ConfigError(
            f"None of the labels of {model} is a class of {taxonomy.name}: say which are with --map LABEL=CLASS. "
            f"Labels: {', '.join(labels[:12])}; classes: {', '.join(row.name for row in rows[:12])}."
        )
    return Meaning(labels=tuple(labels), class_of=class_of, taxonomy=taxonomy)


def read_said(text: str | None) -> dict[str, str]:
    """``label=class,label=class``, or a YAML file of such pairs: the class of every label named.

    Raises:
        ConfigError: neither.
    """
    if text is None:
        return {}
    if text.lower().endswith((".yaml", ".yml")):
        try:
            plain = read_yaml(Path(text))
        except OSError as error:
            raise ConfigError(f"Cannot read {text}: {error.strerror}.") from None
        except ValueError as error:
            raise ConfigError(f"{text} {error}.") from None
        if not isinstance(plain, Mapping) or not all(isinstance(w, str) for pair in plain.items() for w in pair):
            raise ConfigError(f"{text} must hold a class, as text, for every label it names: 'label: class'.")
        return dict(plain)
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [label for label, sign, name in pairs if not (sign and label.strip() and name.strip())]:
        raise ConfigError(
            f"--map wants LABEL=CLASS,LABEL=CLASS or a YAML file (for labels with a comma), got {wrong[0]!r}."
        )
    return {label.strip(): name.strip() for label, _, name in pairs}


def _plain(name: str) -> str:
    word = re.sub(r"-(merged|other|stuff)\b", "", name.lower())
    word = re.sub(r"[^a-z0-9]", "", word)
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _meant(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known)
    return f", did you mean {near!r}?" if near else ""
