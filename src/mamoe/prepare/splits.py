"""A split to validate on, made of pictures of ``train`` where a data set brings none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mamoe.data.folder.holdout import held_out
from mamoe.errors import ConfigError
from mamoe.prepare.labelled import SourcePicture


def with_validation(
    splits: Mapping[str, Sequence[SourcePicture]], share: float | None
) -> Mapping[str, Sequence[SourcePicture]]:
    """The splits, with about that share of the pictures of ``train`` in ``val``: whole scenes, so that frames of one
    video or city lie in one split (see :func:`mamoe.data.folder.holdout.held_out`).

    Raises:
        ConfigError: there is a ``val`` already, no ``train``, or the share is not in (0, 0.5].
    """
    if share is None:
        return splits
    if not 0 < share <= 0.5:
        raise ConfigError(f"--val is a share of the pictures in (0, 0.5], got {share}.")
    if splits.get("val"):
        raise ConfigError(f"--val makes a split, and there are {len(splits['val'])} pictures in val: leave it out.")
    if not splits.get("train"):
        raise ConfigError(f"--val takes pictures of the split 'train', and there are only {', '.join(splits)}.")
    train = splits["train"]
    chosen = set(held_out([picture.name for picture in train], share))
    rest = {name: pictures for name, pictures in splits.items() if name not in ("train", "val")}
    return {
        "train": [picture for i, picture in enumerate(train) if i not in chosen],
        "val": [picture for i, picture in enumerate(train) if i in chosen],
        **rest,
    }
