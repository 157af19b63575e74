"""Layout scores put together for a data set: what its pictures are judged by, learned from its training split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.matching import same_name
from mamoe.errors import DatasetError
from mamoe.evaluation.layout.asked import Classes, Layout
from mamoe.evaluation.layout.domain import MOST_PICTURES, Domain, data_hash, domain_of
from mamoe.evaluation.layout.family import Asked as Maps
from mamoe.evaluation.layout.family import colour_family, fidelity_family, text_family
from mamoe.evaluation.layout.labellers import load_labeller
from mamoe.evaluation.layout.text_regions import load_text_regions
from mamoe.evaluation.layout.use import Real, use_family
from mamoe.evaluation.protocol import Family, PictureSet
from mamoe.evaluation.request import Asked, Progress
from mamoe.evaluation.run import CEILING, LAYOUT, REAL_FLOOR, USE
from mamoe.scenes import COLOURS
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.selection import spread

DOMAIN = "domain"
_ELSEWHERE = {REAL_FLOOR: "measured on held-out layouts alone"}


def layout_families(
    scores: Sequence[str],
    source: LayoutDataset,
    index: Sequence[int],
    train: LayoutDataset,
    store: Path,
    asked: Asked,
    progress: Progress | None = None,
) -> tuple[list[Family], PictureSet]:
    """The families of layout scores that are asked for, and the row of real pictures they are held against.

    Args:
        scores: all that are asked for; those of features are not looked at.
        source: the split the pictures were made from.
        index: which of its layouts.
        train: the training split; its pictures are brought to the size of evaluation.
        store: where domain segmenters are kept, one for each size of pictures.
        asked: segmenters, CLIP, device and seed.
        progress: of the domain segmenter.

    Raises:
        ConfigError: a segmenter or CLIP cannot be loaded.
        DatasetError: the training split cannot teach a segmenter, or the store cannot be written.
    """
    train = train.unaugmented()
    classes = Classes.of(source.taxonomy)
    files = [source.files.samples[i] for i in index]
    samples = (source[i] for i in index)
    looked_at = [path for file in files for path in (file.image, file.panoptic) if path is not None]
    own_prompts = [] if asked.instance_prompts is None else [asked.instance_prompts]
    maps = Maps(
        layouts={same_name(sample.key): _layout(sample) for sample in samples},
        classes=classes,
        reference=data_hash([*looked_at, *own_prompts]),
        geometry=source.geometry,
        elsewhere=_ELSEWHERE,
    )
    ceiling = PictureSet(label=CEILING, paths=tuple(file.image for file in files), generation=None, root=source.folder)
    domain = domain_segmenter(train, classes, store, asked.seed, progress)
    families: list[Family] = []
    if LAYOUT in scores:
        for name in asked.segmenters:
            if name == DOMAIN:
                how = "connected areas of the semantic reading"
                families.append(fidelity_family(maps, domain, DOMAIN, instances=how, seed=asked.seed))
            else:
                network = load_labeller(name, classes, asked.device)
                how = "the network's own" if network.panoptic else "connected areas of the semantic reading"
                title = Path(name).name
                families.append(
                    fidelity_family(maps, network, title, instances=how, unknown=network.unknown, seed=asked.seed)
                )
        families.append(colour_family(maps, domain.vocabulary, domain.learned_from, seed=asked.seed))
        clip = None if asked.clip is None else load_text_regions(asked.clip, asked.device)
        families.append(text_family(maps, clip, seed=asked.seed))
    if USE in scores:
        shown = [train[i] for i in spread(range(len(train)), MOST_PICTURES)]
        real = Real(
            reference=ceiling,
            train=[_picture(sample) for sample in shown],
            train_layouts=[_layout(sample) for sample in shown],
        )
        families.append(use_family(maps, real, seed=asked.seed))
    return families, ceiling


def domain_segmenter(
    train: LayoutDataset, classes: Classes, store: Path, seed: int, progress: Progress | None = None
) -> Domain:
    """The segmenter of a data set's own domain, learned from its training split unless it is in ``store``.

    Args:
        train: the training split, not augmented.
        classes: of the data set.
        store: where domain segmenters are kept, one for each size of pictures.
        seed: of the network.
        progress: called with (steps done, steps in all).

    Raises:
        DatasetError: the split cannot teach a segmenter, or the store cannot be written.
    """
    store = store / _size_name(train)
    chosen = spread(range(len(train)), MOST_PICTURES)
    files = [train.files.samples[i] for i in chosen]
    paths = [path for file in files for path in (file.image, file.panoptic, train.files.instance_prompts)]

    def examples() -> Iterator[tuple[np.ndarray, Layout]]:
        for i in chosen:
            sample = train[i]
            yield _picture(sample), _layout(sample)

    try:
        return domain_of(
            store,
            learned_from=data_hash(dict.fromkeys(p for p in paths if p is not None), str(train.geometry)),
            examples=examples,
            classes=classes,
            words=tuple(COLOURS),
            seed=seed,
            progress=progress,
        )
    except OSError as error:
        raise DatasetError(f"Cannot keep the domain segmenter in {store}: {error}") from None
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"The training split cannot teach a segmenter: {error}") from None


def _size_name(train: LayoutDataset) -> str:
    size, crop = train.geometry.size, train.geometry.crop
    sides = str(size) if isinstance(size, int) else "x".join(map(str, size))
    return sides if crop is None else f"{sides}-{crop}"


def _picture(sample: Sample) -> np.ndarray:
    return sample.picture


def _layout(sample: Sample) -> Layout:
    return Layout(panoptic=sample.panoptic, prompts=sample.prompts.by_segment)
