from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mamoe.errors import DatasetError
from mamoe.prepare.annotations import connected_components, read_index_picture


def _flood_fill(class_id, classes):
    """The slow way: breadth-first search over the eight neighbours, areas numbered in reading order."""
    height, width = class_id.shape
    labels = np.zeros((height, width), dtype=np.int32)
    number = 0
    for start in np.ndindex(height, width):
        if labels[start] or class_id[start] not in classes:
            continue
        number += 1
        labels[start] = number
        queue = deque([start])
        while queue:
            r, c = queue.popleft()
            for n in [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]:
                inside = 0 <= n[0] < height and 0 <= n[1] < width
                if inside and not labels[n] and class_id[n] == class_id[start]:
                    labels[n] = number
                    queue.append(n)
    return labels


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_components_equal_a_flood_fill(class_id):
    assert np.array_equal(connected_components(class_id, [1, 2]), _flood_fill(class_id, {1, 2}))


def test_spiral_is_one_component():
    spiral = np.ones((9, 9), dtype=np.uint8)
    spiral[1, :8] = spiral[1:8, 7] = spiral[7, 1:8] = spiral[3:8, 1] = spiral[3, 1:6] = 0
    assert connected_components(spiral, [1]).max() == _flood_fill(spiral, {1}).max()
    assert connected_components(spiral, []).max() == 0


def test_index_pictures_of_8_and_16_bits(tmp_path):
    values = np.array([[0, 7], [300, 33001]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values % 256).astype(np.uint8)).save(tmp_path / "flat.png")
    assert read_index_picture(tmp_path / "deep.png").tolist() == values.tolist()
    assert read_index_picture(tmp_path / "flat.png").tolist() == (values % 256).tolist()


def test_other_pictures_are_refused_by_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"colour\.png must hold one number"):
        read_index_picture(tmp_path / "colour.png")
    with pytest.raises(DatasetError, match=r"Cannot read .*broken\.png"):
        read_index_picture(tmp_path / "broken.png")
