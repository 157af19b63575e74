import numpy as np
import pytest

from mamoe.vocabulary.panoptic import PanopticMap


def _map(segment, klass):
    return PanopticMap(segment_id=np.array(segment, dtype=np.int32), class_id=np.array(klass, dtype=np.uint8))


def test_classes_lists_every_segment_but_zero():
    panoptic = _map([[0, 700, 700], [3, 3, 0]], [[19, 13, 13], [0, 0, 10]])
    assert panoptic.classes == {3: 0, 700: 13}
    assert panoptic.size == (2, 3)


def test_segment_zero_may_hold_several_classes():
    assert _map([[0, 0]], [[1, 2]]).classes == {}


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    ("segment", "klass", "complaint"),
    [
        ([[5, 5]], [[1, 2]], r"segments \[5\]"),
        ([[-1, 0]], [[1, 2]], r"got -1"),
        ([[65536, 0]], [[1, 2]], r"65536"),
        ([[1, 2]], [[1], [2]], r"one size"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"empty"),
    ],
)
def test_contradictions_are_refused(segment, klass, complaint):
    with pytest.raises(ValueError, match=complaint):
        _map(segment, klass)


@pytest.mark.usefixtures("shapes_unchecked")
def test_types_of_the_arrays_are_checked():
    with pytest.raises(ValueError, match="int64"):
        PanopticMap(segment_id=np.zeros((2, 2), dtype=np.int64), class_id=np.zeros((2, 2), dtype=np.uint8))
