"""Maps that can be read and still mean something else: what they look like, and which import serves.

Nothing here is certain, so nothing here is refused: :meth:`Impression.warnings` are for people.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mamoe.data.looks import MapLook
from mamoe.taxonomy import Taxonomy, shipped_taxonomies

_MOST_TOLD_APART = 512  # colours over all maps of a split, beyond which no legend of colours is behind them
_FEW_COLOURS = 64
_MANY_THINGS = 6  # thing classes, all of which one photograph hardly shows
_CITYSCAPES_LABEL_IDS, _CITYSCAPES_VOID = 33, 19  # the largest; of the train ids, which the taxonomies here use
_OURS = "a panoptic PNG has segment id = R*256 + G and class id = B"


class Impression:
    """What the maps of a split look like, taken together.

    Args:
        taxonomy: the class ids they may hold.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.maps = 0
        self.pixels = np.zeros(256, dtype=np.int64)  # of every class id
        self._colours: dict[int, int] | None = {}  # pixels of every colour; None: too many to be a legend
        self._red = np.zeros(256, dtype=np.int64)
        self._green = self._grey = 0  # pixels
        self._swapped = True  # read as BGR, no segment has two classes
        self._crowded: list[Path] = []  # maps with as many colours as a photograph, the first few
        self._crowded_maps = 0
        self._full: list[Path] = []  # maps with things of every class, the first few
        self._full_maps = 0
        self._thing_ids = np.array([row.id for row in taxonomy.classes if row.is_thing], dtype=np.intp)
        self._thing_segments = 0

    def add(self, path: Path, look: MapLook) -> None:
        """Take in one more map."""
        self.maps += 1
        area = look.size[0] * look.size[1]
        if look.colours is None or len(look.colours) > max(1000, area // 50):
            self._crowded_maps += 1
            self._crowded += [path][: 3 - len(self._crowded)]
            return
        colours, counts = look.colours, look.counts
        red, green, blue = colours >> 16, colours >> 8 & 0xFF, colours & 0xFF
        present = np.zeros(256, dtype=bool)
        present[blue] = True
        np.add.at(self.pixels, blue, counts)
        np.add.at(self._red, red, counts)
        self._green += int(counts[green > 0].sum())
        self._grey += int(counts[(red == green) & (green == blue)].sum())
        self._thing_segments += int(np.isin(blue[colours > 0xFF], self._thing_ids).sum())
        mirrored = (blue << 8 | green)[blue + green > 0]
        self._swapped &= len(np.unique(mirrored)) == len(mirrored)
        if len(self._thing_ids) >= _MANY_THINGS and present[self._thing_ids].all():
            self._full_maps += 1
            self._full += [path][: 3 - len(self._full)]
        if self._colours is not None:
            for colour, count in zip(colours.tolist(), counts.tolist(), strict=True):
                self._colours[colour] = self._colours.get(colour, 0) + count
            if len(self._colours) > _MOST_TOLD_APART:
                self._colours = None

    def warnings(self, folder: Path) -> tuple[str, ...]:
        """What is odd about the maps in ``folder``, one sentence or two each."""
        if not self.maps:
            return ()
        kind = self._kind()
        found = [] if kind is None else [f"{folder}: {kind}"]
        if self._full_maps:
            found.append(
                f"{folder}: {_maps(self._full_maps)} {'holds' if self._full_maps == 1 else 'hold'} things of every one "
                f"of the {len(self._thing_ids)} classes of things ({_some(self._full)}), which photographs hardly do. "
                f"Is the class id in the blue channel? {_OURS}"
            )
        if kind is None and not self._thing_segments and (things := self.pixels[self._thing_ids].sum()):
            found.append(
                f"{folder}: the maps have {things} pixels of things but no segment of one: all things of a class are "
                f"one region, and none gets a prompt of its own. {_OURS}"
            )
        return tuple(found)

    def _kind(self) -> str | None:
        """What the maps are if not what they should be; the surest guess, None where nothing is odd."""
        guesses = (
            self._like_photographs,
            self._like_painted_classes,
            self._like_grey_ids,
            self._like_bgr,
            self._like_coco,
            self._like_label_ids,
            self._like_colours_or_ids,
            self._like_one_class,
        )
        return next((text for guess in guesses if (text := guess()) is not None), None)

    def _like_photographs(self) -> str | None:
        if self._crowded_maps * 2 <= self.maps:
            return None
        return (
            f"{self._crowded_maps} of {_maps(self.maps)} have about as many colours as photographs "
            f"({_some(self._crowded)}). They look like photographs, or like maps that were saved lossy (JPEG) or "
            "resized smoothly on their way; ids need every pixel as it was: resize by nearest, save as PNG"
        )

    def _like_painted_classes(self) -> str | None:
        if (legend := self._legend()) is None:
            return None
        return (
            f"the maps look like colour-coded semantic maps ({legend}), where a colour stands for a class; {_OURS}. "
            "Turn each colour into its class id. The official data sets have files with ids beside the coloured ones, "
            "which `mamoe prepare cityscapes`, `mamoe prepare camvid` and `mamoe prepare coco` read"
        )

    def _like_grey_ids(self) -> str | None:
        if self._grey < self.pixels.sum() or not self.pixels[1:].any():
            return None
        return (
            "R = G = B everywhere: the maps look like grey maps of class ids saved as RGB. Read as they are, all "
            f"things of one class are one segment; {_OURS}. `mamoe prepare camvid` reads such ids from PNGs of one "
            "channel"
        )

    def _like_bgr(self) -> str | None:
        red = set(np.flatnonzero(self._red).tolist())
        of_red = len(red & self._known - {self.taxonomy.void_id})
        if not (red <= self._known and self._swapped and of_red >= 2):
            return None
        if not (self._odd or (len(self._classes) <= 2 and of_red >= 4)):
            return None
        empty = not self._green and not self.pixels[1:].any()
        other = (
            ", or as COCO does (segment id = R + G*256 + B*65536), which `mamoe prepare coco` reads" if empty else ""
        )
        return (
            f"{self._said()}, while the red channel holds {of_red} of the taxonomy's. The maps look as if written in "
            f"the order BGR, as cv2.imwrite does{other}; {_OURS}: write them with array[..., ::-1]"
        )

    def _like_coco(self) -> str | None:
        if not self._odd or self.pixels[1:].any() or not self._red[1:].any():
            return None
        return (
            f"{self._said()}, and the blue channel is empty. The maps look like panoptic PNGs of COCO's kind (segment "
            f"id = R + G*256 + B*65536, classes in a JSON); {_OURS}. `mamoe prepare coco` reads those, `mamoe prepare "
            "cityscapes` Cityscapes' own"
        )

    def _like_label_ids(self) -> str | None:
        if self.taxonomy.void_id != _CITYSCAPES_VOID or len(self._unknown - {255}) < 3:
            return None
        if max(self._used - {255}) > _CITYSCAPES_LABEL_IDS:
            return None
        return (
            "the class ids look like Cityscapes' label ids (0 to 33), but the taxonomy has its train ids (0 to 18, "
            "void 19). `mamoe prepare cityscapes` translates them"
        )

    def _like_colours_or_ids(self) -> str | None:
        few = self._colours is not None and self.maps >= 3 and len(self._colours) <= _FEW_COLOURS
        if self._unknown_share > 0.5 and few and self._red[1:].any() and self._green:
            return (
                f"all {self.maps} maps share {len(self._colours or ())} colours: they look like colour-coded semantic "
                f"maps, where a colour stands for a class; {_OURS}. Turn each colour into its class id"
            )
        if len(self._unknown) < 8:
            return None
        return (
            f"the blue channel holds {len(self._unknown)} numbers that are no class ids. The maps look like panoptic "
            "PNGs of COCO's kind (segment id = R + G*256 + B*65536), which `mamoe prepare coco` reads with their JSON, "
            f"or like colours; {_OURS}"
        )

    def _like_one_class(self) -> str | None:
        if self._unknown or len(self.taxonomy.classes) == 1 or len(self._classes) > 1:
            return None
        return f"{self._said()}. Is the class id in the blue channel? {_OURS}"

    @property
    def _known(self) -> set[int]:
        return {row.id for row in self.taxonomy.classes} | {self.taxonomy.void_id}

    @property
    def _used(self) -> set[int]:
        return set(np.flatnonzero(self.pixels).tolist())

    @property
    def _classes(self) -> set[int]:
        return self._used - {self.taxonomy.void_id}

    @property
    def _unknown(self) -> set[int]:
        return self._used - self._known

    @property
    def _odd(self) -> bool:
        """Whether the maps, read as they should be, say next to nothing."""
        return len(self._classes - self._unknown) <= 1 < len(self.taxonomy.classes) or self._unknown_share > 0.5

    @property
    def _unknown_share(self) -> float:
        return float(self.pixels[sorted(self._unknown)].sum() / self.pixels.sum())

    def _said(self) -> str:
        names = {row.id: row.name for row in self.taxonomy.classes}
        if not self._classes:
            return f"every pixel of {_maps(self.maps)} is void (class id {self.taxonomy.void_id})"
        if len(self._classes) > 1:
            return f"{_maps(self.maps)} hold only {len(self._classes)} class ids"
        (only,) = self._classes
        share = self.pixels[only] / self.pixels.sum()
        name = names.get(only, f"class id {only}")
        return f"{name} is the only class in {_maps(self.maps)}, with {share:.0%} of the pixels"

    def _legend(self) -> str | None:
        """Whose colours the maps are painted in."""
        if self._colours is None or len(painted := {c: n for c, n in self._colours.items() if c}) < 2:
            return None
        if not self._unknown and not self._red[1:].any():  # the usual case: known classes, fewer than 256 segments
            return None
        palettes = {f"the taxonomy {self.taxonomy.name}'s colours": self.taxonomy.palette, **_known_palettes()}
        for name, palette in palettes.items():
            coded = set((palette.astype(np.int64) @ (1 << 16, 1 << 8, 1)).tolist())
            if sum(count for colour, count in painted.items() if colour in coded) >= 0.95 * sum(painted.values()):
                return name
        return None


@cache
def _known_palettes() -> dict[str, UInt8[np.ndarray, "256 3"]]:
    shipped = {f"the taxonomy {name}'s colours": Taxonomy.load(name).palette for name in shipped_taxonomies()}
    return {**shipped, "the colours of PASCAL VOC": _voc_palette()}


def _voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """Bits 0, 3, 6 of an id make red, 1, 4, 7 green, 2, 5 blue, the lowest first into the highest bit."""
    ids: Int64[np.ndarray, "256"] = np.arange(256)
    channels = [sum((ids >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def _maps(count: int) -> str:
    return "1 map" if count == 1 else f"{count} maps"


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)
