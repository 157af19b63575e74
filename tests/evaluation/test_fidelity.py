"""Layout scores against torchmetrics, closed forms, and what must be n/a."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index
from torchmetrics.functional.detection import panoptic_quality as their_panoptic_quality

from mamoe.evaluation.layout.asked import Classes, Layout
from mamoe.evaluation.layout.fidelity import fidelity
from mamoe.evaluation.layout.panoptic_quality import VOID, Reading, panoptic_counts, panoptic_quality
from mamoe.evaluation.layout.text_regions import cut_out
from mamoe.evaluation.ratios import measured_of_sums, ratio
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import ClassInfo, Taxonomy

THINGS = frozenset({0, 1})
TAXONOMY = Taxonomy(
    name="five",
    classes=tuple(
        ClassInfo(id=10 * (i + 1), name=name, is_thing=i in THINGS, prompt=name, colour=(i, i, i))
        for i, name in enumerate(["car", "person", "road", "sky", "tram"])
    ),
    groupings={},
    void_id=0,
)
CLASSES = Classes.of(TAXONOMY)


def blocks(rng: np.random.Generator, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (4 = void here) and segment ids of a random patchwork; a segment has one class."""
    ids = np.kron(rng.integers(1, 9, (side // 4, side // 4)), np.ones((4, 4), dtype=int))
    of_segment = np.concatenate([[4], rng.integers(0, 5, 8)])
    return of_segment[ids].astype(np.uint8), ids.astype(np.int32)


def pair(seed: int) -> tuple[Reading, np.ndarray, np.ndarray]:
    """A map and a reading that differs from it here and there; void (255) in both."""
    rng = np.random.default_rng(seed)
    wanted, ids = blocks(rng)
    other, other_ids = blocks(rng)
    swapped = np.kron(rng.random((8, 8)) < 0.3, np.ones((4, 4))).astype(bool)
    seen, seen_ids = np.where(swapped, other, wanted), np.where(swapped, other_ids + 20, ids)
    seen, wanted = (np.where(x == 4, VOID, x).astype(np.uint8) for x in (seen, wanted))
    return Reading(labels=seen, class_id=seen, segment_id=seen_ids.astype(np.int32)), wanted, ids


def as_map(wanted: np.ndarray, ids: np.ndarray) -> Layout:
    """The inverse of bringing class ids to numbers; void has segment 0."""
    class_id = np.where(wanted == VOID, 0, 10 * (wanted + 1)).astype(np.uint8)
    return Layout(
        panoptic=PanopticMap(segment_id=np.where(wanted == VOID, 0, ids).astype(np.int32), class_id=class_id),
        prompts={},
    )


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_is_torchmetrics(seed):
    pairs = [pair(10 * seed + i) for i in range(3)]
    counts = sum(panoptic_counts(r, w, s, things=THINGS, num_classes=4) for r, w, s in pairs)

    def stacked(classes, ids):
        known = np.where(classes == VOID, 77, classes)
        return torch.from_numpy(np.stack([known, np.where(known == 77, 0, ids)], axis=-1).astype(np.int64))

    theirs = their_panoptic_quality(
        torch.stack([stacked(r.class_id, r.segment_id) for r, _, _ in pairs]),
        torch.stack([stacked(w, s) for _, w, s in pairs]),
        things=set(THINGS),
        stuffs={2, 3},
        allow_unknown_preds_category=True,
        return_per_class=True,
    ).flatten()
    ours = panoptic_quality(counts)
    assert np.allclose(np.nan_to_num(ours), theirs.numpy(), atol=1e-12)
    assert 0 < np.nanmean(ours) < 1


def test_miou_and_accuracy_are_torchmetrics():
    pairs = [pair(seed) for seed in range(5)]
    seen = [np.where(r.labels == VOID, 3, r.labels).astype(np.uint8) for r, _, _ in pairs]  # torchmetrics has no void
    readings = [
        Reading(labels=s, class_id=s, segment_id=r.segment_id) for s, (r, _, _) in zip(seen, pairs, strict=True)
    ]
    found = fidelity(readings, [as_map(w, s) for _, w, s in pairs], CLASSES)
    a = torch.from_numpy(np.stack(seen).astype(np.int64)).flatten()
    b = torch.from_numpy(np.stack([w for _, w, _ in pairs]).astype(np.int64)).flatten()
    options = {"num_classes": 5, "ignore_index": VOID}
    assert found["mIoU"].value == pytest.approx(float(multiclass_jaccard_index(a, b, **options)), rel=1e-6)
    per_class = multiclass_jaccard_index(a, b, average="none", **options)
    for number, name in enumerate(CLASSES.names[:4]):
        assert found[f"IoU/{name}"].value == pytest.approx(float(per_class[number]), rel=1e-6)
    right = multiclass_accuracy(a, b, average="micro", **options)
    assert found["pixel accuracy"].value == pytest.approx(float(right), rel=1e-6)
    for score in ("mIoU", "PQ", "pixel accuracy"):
        measured = found[score]
        assert measured.interval.low < measured.value < measured.interval.high


def test_perfect_readings_and_what_is_not_there():
    wanted, ids = (np.zeros((32, 32), dtype=kind) for kind in (np.uint8, np.int32))
    wanted[:], ids[:] = 2, 1  # road
    wanted[:4, :4], ids[:4, :4] = 0, 2  # a car of a quarter of a cell
    wanted[8:24, 8:24], ids[8:24, 8:24] = 0, 3  # one of four cells
    perfect = Reading(labels=wanted, class_id=wanted, segment_id=ids)
    found = fidelity([perfect] * 3, [as_map(wanted, ids)] * 3, CLASSES)
    for name in ("mIoU", "pixel accuracy", "PQ", "IoU/car", "IoU/road", "recall 0 to 1 cells", "recall 4 to 16 cells"):
        assert found[name].value == 1 and found[name].interval.low == 1, name
    assert found["IoU/person"].missing == "no pixel of it in the maps"
    assert found["recall from 64 cells"].missing == "no instance of this size in the maps"

    blind = np.full_like(wanted, 2)
    blind[8:16, 8:24] = 0  # half of the larger car
    half = Reading(labels=blind, class_id=blind, segment_id=ids)
    found = fidelity([half], [as_map(wanted, ids)], CLASSES, unknown=frozenset({1}))
    assert found["recall 0 to 1 cells"].value == 0 and found["recall 4 to 16 cells"].value == 1
    assert found["IoU/car"].value == pytest.approx(128 / (256 + 16))
    assert found["IoU/person"].missing == "the segmenter does not know this class"
    assert found["PQ"].interval is None  # one picture

    empty = np.full_like(wanted, VOID)
    nothing = fidelity([perfect], [as_map(empty, ids)], CLASSES)
    assert nothing["mIoU"].missing and nothing["pixel accuracy"].missing and nothing["PQ"].value is None


def test_readings_of_other_sizes_are_refused():
    small = np.zeros((4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="differ in size"):
        panoptic_counts(
            Reading(labels=small, class_id=small, segment_id=small.astype(np.int32)),
            *(np.zeros((8, 8), kind) for kind in (np.uint8, np.int32)),
            things=THINGS,
            num_classes=4,
        )


def test_interval_of_a_ratio_is_that_of_a_mean():
    """All pictures of one weight: the bootstrap of the ratio is the binomial's."""
    hits = np.repeat([[1.0, 1.0], [0.0, 1.0]], 200, axis=0)
    measured = measured_of_sums(hits, ratio, absent="none")
    assert measured.value == 0.5
    half = 1.96 * np.sqrt(0.25 / 400)
    assert measured.interval.low == pytest.approx(0.5 - half, abs=0.006)
    assert measured.interval.high == pytest.approx(0.5 + half, abs=0.006)
    assert measured_of_sums(np.zeros((3, 2)), ratio, absent="none").missing == "none"


def test_cut_out_is_the_object_alone():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + 1
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1:3] = mask[2, 1] = True
    box = cut_out(image, mask)
    assert box.shape == (2, 2, 3) and (box[1, 1] == 0).all() and (box[0, 1] == image[1, 2]).all()
