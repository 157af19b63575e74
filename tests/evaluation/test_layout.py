import math

import numpy as np
import pytest

from mamoe.evaluation.layout.confusion import class_iou, confusion, pixel_accuracy


def test_counts_by_hand():
    wanted = [np.array([[0, 0, 1], [2, 2, 19]], dtype=np.uint8)]
    labels = [np.array([[0, 1, 1], [2, 0, 0]], dtype=np.uint8)]
    counts = confusion(labels, wanted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert pixel_accuracy(counts) == 3 / 5
    iou = class_iou(counts)
    assert iou[:3].tolist() == [1 / 3, 1 / 2, 1 / 2] and math.isnan(iou[3])


def test_perfect_labels_and_no_labels():
    classes = np.random.default_rng(0).integers(0, 5, (3, 8, 9)).astype(np.uint8)
    counts = confusion(list(classes), list(classes), 5)
    assert pixel_accuracy(counts) == 1 and (class_iou(counts) == 1).all()
    assert counts.sum() == classes.size
    assert math.isnan(pixel_accuracy(confusion([], [], 5)))


def test_bad_input_is_explained():
    labels = np.zeros((4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="as many"):
        confusion([labels], [], 2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion([labels], [labels[:2]], 2)
    with pytest.raises(ValueError, match="below 2, got 7"):
        confusion([labels + 7], [labels], 2)
