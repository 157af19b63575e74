"""Do pictures show the colours their instance prompts name?

An instance *hits* when the mean colour of its pixels lies nearer to the colour of its own word than to that of any
other word (Euclidean distance in RGB). What a word looks like is measured on real pictures of the same domain
(:func:`fit_vocabulary`), because the light of a scene, windows and skin pull every paint the same way there.

Only instances of at least ``MIN_AREA`` pixels count: three latent cells of 8x8 pixels, the size below which an
autoencoder of factor 8 hardly has a cell to put the colour into. All pixels of an instance count, its border too:
eroding it changes the rate of real pictures by less than a percent and would flatter blurred ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from mamoe.vocabulary.panoptic import PanopticMap

MIN_AREA = 3 * 8 * 8  # pixels: three latent cells

Vocabulary = Mapping[str, Float64[np.ndarray, "3"]]  # word -> mean RGB in [0, 255]
Colours = Mapping[int, str]  # segment id -> the colour word of its prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class HitRate:
    """How many of ``n`` instances show the colour asked for."""

    hits: int
    n: int


def named_colours(instance_prompts: Mapping[int, str], words: Collection[str]) -> dict[int, str]:
    """The colour word of every prompt that names exactly one of ``words``; the others are left out.

    Example: ``{3: "a red car", 4: "a tree"}`` with red and blue gives ``{3: "red"}``.
    """
    found = {segment: set(_tokens(prompt)) & set(words) for segment, prompt in instance_prompts.items()}
    return {segment: min(colours) for segment, colours in found.items() if len(colours) == 1}


def fit_vocabulary(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    maps: Sequence[PanopticMap],
    colours: Sequence[Colours],
    *,
    min_area: int = MIN_AREA,
) -> dict[str, Float64[np.ndarray, "3"]]:
    """What each colour word looks like in real pictures: the mean over its instances of their mean colour.

    Args:
        images: real pictures u8.
        maps: their panoptic maps, of the same sizes.
        colours: per picture, the colour word of its coloured segments.
        min_area: smallest instance that counts, in pixels.

    Raises:
        ValueError: the lists differ in length, a picture and its map in size, or fewer than two words are left.
    """
    samples: dict[str, list[np.ndarray]] = {}
    for _, word, colour in _instances(images, maps, colours, min_area):
        samples.setdefault(word, []).append(colour)
    if len(samples) < 2:
        raise ValueError(
            f"A vocabulary needs instances of at least two colour words with {min_area} pixels or more, got "
            f"{sorted(samples)} from {len(images)} pictures. Give more pictures or a smaller min_area."
        )
    return {word: np.mean(samples[word], axis=0) for word in sorted(samples)}


def colour_hits(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    maps: Sequence[PanopticMap],
    colours: Sequence[Colours],
    vocabulary: Vocabulary,
    *,
    min_area: int = MIN_AREA,
) -> HitRate:
    """In how many instances is the mean colour nearest to the colour of the instance's own word?

    Args:
        images: pictures u8, real or generated.
        maps: the panoptic maps they were made for, of the same sizes.
        colours: per picture, the colour word asked for in each coloured segment.
        vocabulary: what every word looks like, from :func:`fit_vocabulary`.
        min_area: smallest instance that counts, in pixels.

    Raises:
        ValueError: the lists differ in length, a picture and its map in size, or a word is not in the vocabulary.
    """
    unknown = {word for of_picture in colours for word in of_picture.values()} - set(vocabulary)
    if unknown:
        raise ValueError(f"Colour words {sorted(unknown)} are not in the vocabulary {sorted(vocabulary)}; fit it anew.")
    words = list(vocabulary)
    references = np.stack([vocabulary[word] for word in words])
    instances = list(_instances(images, maps, colours, min_area))
    hits = sum(words[_nearest(colour, references)] == word for _, word, colour in instances)
    return HitRate(hits=hits, n=len(instances))


def instances_that_count(maps: Sequence[PanopticMap], colours: Sequence[Colours], *, min_area: int = MIN_AREA) -> int:
    """How many instances :func:`colour_hits` looks at."""
    return sum(len(_large(panoptic, of_picture, min_area)) for panoptic, of_picture in zip(maps, colours, strict=True))


def caption_chance(
    maps: Sequence[PanopticMap],
    colours: Sequence[Colours],
    captions: Sequence[str],
    words: Collection[str],
    *,
    min_area: int = MIN_AREA,
) -> float:
    """Hit rate of one who knows the colours a caption names but not what wears them, in [0, 1].

    Every instance gets one of its caption's colour words, each with equal chance; of all words if the caption names
    none. This is the chance level of a model that reads the caption and sees no layout.

    Args:
        maps: the panoptic maps.
        colours: per map, the colour word asked for in each coloured segment.
        captions: the prompt of every picture.
        words: all colour words.
        min_area: smallest instance that counts, in pixels.

    Raises:
        ValueError: the lists differ in length, or no instance counts.
    """
    known = set(words)
    chances: list[float] = []
    for panoptic, of_picture, caption in zip(maps, colours, captions, strict=True):
        named = [word for word in _tokens(caption) if word in known] or list(known)
        chances += [named.count(word) / len(named) for word in _large(panoptic, of_picture, min_area)]
    if not chances:
        raise ValueError(f"No coloured instance of {min_area} pixels or more in {len(maps)} maps.")
    return sum(chances) / len(chances)


def swap_colours(
    instance_prompts: Mapping[int, str], words: Collection[str], rng: np.random.Generator
) -> dict[int, str]:
    """The same prompts with another colour in every prompt that names one: "a red car" -> "an orange car".

    No coloured instance keeps its word; prompts without a colour stay as they are. ``rng`` picks each new word
    among all others with equal chance.

    Raises:
        ValueError: fewer than two words.
    """
    if len(set(words)) < 2:
        raise ValueError(f"Swapping needs at least two colour words, got {sorted(words)}.")
    swapped = dict(instance_prompts)
    for segment, word in sorted(named_colours(instance_prompts, words).items()):
        others = sorted(set(words) - {word})
        swapped[segment] = _with_colour(instance_prompts[segment], word, others[int(rng.integers(len(others)))])
    return swapped


def swap_in_caption(caption: str, before: Mapping[int, str], after: Mapping[int, str]) -> str:
    """The caption with every phrase that is an instance prompt of ``before`` said as in ``after``.

    Where several segments had the same prompt, the one with the smallest id decides.
    """
    said: dict[str, str] = {}
    for segment in sorted(before):
        said.setdefault(before[segment], after[segment])
    if not said:
        return caption
    phrases = "|".join(re.escape(phrase) for phrase in sorted(said, key=len, reverse=True))
    return re.sub(rf"\b(?:{phrases})\b", lambda match: said[match.group()], caption)


def _with_colour(prompt: str, old: str, new: str) -> str:
    article = "an" if new[0] in "aeiou" else "a"
    fixed = re.sub(rf"\b(?:a|an) {re.escape(old)}\b", f"{article} {new}", prompt, flags=re.IGNORECASE)
    return re.sub(rf"\b{re.escape(old)}\b", new, fixed, flags=re.IGNORECASE)


def _tokens(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt.lower())


def _large(panoptic: PanopticMap, of_picture: Colours, min_area: int) -> list[str]:
    """The colour words of the instances that are large enough."""
    return [word for segment, word in of_picture.items() if (panoptic.segment_id == segment).sum() >= min_area]


def _nearest(colour: np.ndarray, references: np.ndarray) -> int:
    return int(np.square(references - colour).sum(axis=1).argmin())


def _instances(images, maps, colours, min_area: int):
    """(picture number, word, mean RGB f64[3]) of every coloured instance that is large enough."""
    if not len(images) == len(maps) == len(colours):
        raise ValueError(
            f"Pictures, maps and colours must be as many, got {len(images)}, {len(maps)} and {len(colours)}."
        )
    for number, (image, panoptic, of_picture) in enumerate(zip(images, maps, colours, strict=True)):
        if image.shape != (*panoptic.size, 3):
            raise ValueError(f"Picture {number} has shape {image.shape}, but its map needs {(*panoptic.size, 3)}.")
        for segment, word in of_picture.items():
            mask = panoptic.segment_id == segment
            if int(mask.sum()) >= min_area:
                yield number, word, image[mask].mean(axis=0, dtype=np.float64)
