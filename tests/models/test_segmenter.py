import numpy as np
import pytest
import torch

from mamoe.evaluation.layout.fidelity import iou, pixel_counts
from mamoe.models.segmenter import Segmenter, train_segmenter
from mamoe.scenes import draw_scene
from mamoe.scenes.writer import scene_seed


def quadrants(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two colours with noise, parted at a random row; void on the left edge."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((count, 32, 64), dtype=np.uint8)
    for picture in classes:
        picture[int(rng.integers(8, 24)) :] = 1
    images = np.array([(200, 60, 60), (60, 60, 200)], dtype=float)[classes] + rng.normal(0, 30, (count, 32, 64, 3))
    classes[:, :, :4] = 19
    return images.clip(0, 255).astype(np.uint8), classes


def counted(labels, wanted, num_classes: int) -> np.ndarray:
    """Pixels of every class read rightly, wanted, and read, over all pictures."""
    return np.sum([pixel_counts(*pair, num_classes) for pair in zip(labels, wanted, strict=True)], axis=0)


def test_learns_two_colours_in_a_moment():
    images, classes = quadrants(48, seed=0)
    steps = []
    network = train_segmenter(
        images, classes, num_classes=3, seed=0, epochs=6, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (36, 36) and len(steps) == 36
    unseen, wanted = quadrants(8, seed=1)
    counts = counted(network.predict(list(unseen)), wanted, 3)
    assert counts[0].sum() / counts[1].sum() > 0.95
    assert iou(counts)[:2].min() > 0.9


def test_same_seed_same_network_and_no_trace_on_the_global_stream():
    images, classes = quadrants(16, seed=0)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (
        train_segmenter(images, classes, num_classes=2, seed=seed, epochs=1).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_void_teaches_nothing():
    images, classes = quadrants(8, seed=0)
    other_void = np.where(classes == 19, 255, classes).astype(np.uint8)
    one, two = (train_segmenter(images, c, num_classes=2, seed=0, epochs=1).head.bias for c in (classes, other_void))
    assert torch.equal(one, two)
    only_void = train_segmenter(images, np.full_like(classes, 19), num_classes=2, seed=0, epochs=1)
    assert torch.isfinite(only_void.head.bias).all() and not torch.equal(only_void.head.bias, one)


def test_any_size_is_labelled_and_the_batch_does_not_matter():
    network = Segmenter(5)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((32, 64, 3), (40, 72, 3), (50, 33, 3))]
    labels = network.predict(images)
    assert [x.shape for x in labels] == [(32, 64), (40, 72), (50, 33)] and labels[0].dtype == np.uint8
    assert np.array_equal(network.predict(images[1:2])[0], labels[1])
    assert network.training
    assert 200_000 < sum(p.numel() for p in Segmenter(19).parameters()) < 300_000


@pytest.mark.usefixtures("shapes_unchecked")
def test_bad_examples_are_explained():
    images, classes = quadrants(2, seed=0)
    for given, says in (
        ((images.astype(float), classes), "uint8"),
        ((images, classes[:1]), r"\(2, 32, 64\), got \(1, 32, 64\)"),
        ((images[:, :24], classes[:, :24]), "divisible by 32"),
    ):
        with pytest.raises(ValueError, match=says):
            train_segmenter(*given, num_classes=2, seed=0)


@pytest.mark.slow
def test_learns_drawn_streets():
    trains = [draw_scene(scene_seed(0, "train", i)) for i in range(96)]
    tests = [draw_scene(scene_seed(0, "test", i)) for i in range(32)]
    network = train_segmenter(
        np.stack([s.image for s in trains]), np.stack([s.panoptic.class_id for s in trains]), num_classes=19, seed=0
    )
    counts = counted(network.predict([s.image for s in tests]), [s.panoptic.class_id for s in tests], 19)
    assert counts[0].sum() / counts[1].sum() > 0.9
