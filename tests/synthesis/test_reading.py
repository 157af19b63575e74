"""What is kept of a picture: closed forms of the rules."""

import numpy as np
import torch

from mamoe.evaluation.layout.asked import Classes
from mamoe.models.segmenter import Segmenter
from mamoe.synthesis.reading import Verdict, class_means, cleaned, judged, too_wrong
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

CLASSES = Classes.of(Taxonomy.load("scenes"))
VOID = Taxonomy.load("scenes").void_id


def test_pixels_above_the_mean_of_their_class_times_the_tolerance_are_wrong():
    losses = np.array([[1.0, 1.3, 2.5], [2.6, 0.0, 9.0]], dtype=np.float32)
    wanted = np.array([[0, 0, 1], [1, 1, 255]], dtype=np.uint8)
    wrong = too_wrong(losses, wanted, np.array([1.0, 2.0]), 1.25)
    assert wrong.tolist() == [[False, True, False], [True, False, False]]


def test_means_are_over_all_pictures():
    verdicts = {
        "b": Verdict(losses=[6.0, 0.0], pixels=[2, 0], right=2),
        "a": Verdict(losses=[2.0, 5.0], pixels=[2, 1], right=0),
    }
    assert class_means(verdicts).tolist() == [2.0, 5.0]
    assert [verdicts[name].agreement for name in "ab"] == [0.0, 1.0]
    assert Verdict(losses=[0.0], pixels=[0], right=0).agreement == 0.0


def test_a_cleaned_map_has_no_segment_where_it_is_void():
    panoptic = PanopticMap(
        segment_id=np.array([[5, 5], [0, 6]], dtype=np.int32), class_id=np.array([[13, 13], [0, 11]], dtype=np.uint8)
    )
    kept = cleaned(panoptic, np.array([[True, False], [False, True]]), VOID)
    assert kept.segment_id.tolist() == [[0, 5], [0, 0]] and kept.class_id.tolist() == [[VOID, 13], [0, VOID]]


def test_losses_are_the_cross_entropy_of_every_pixel():
    torch.manual_seed(0)
    network = Segmenter(len(CLASSES)).eval()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    ids = np.array([row.id for row in Taxonomy.load("scenes").classes] + [VOID], dtype=np.uint8)
    class_id = rng.choice(ids, (40, 56))
    panoptic = PanopticMap(segment_id=np.zeros((40, 56), dtype=np.int32), class_id=class_id)
    wanted = CLASSES.numbers(panoptic)
    losses, read = network.losses(picture, wanted)
    scores = network.scores(picture[None])[0].double().log_softmax(0).numpy()
    known = wanted < len(CLASSES)
    rows, columns = np.nonzero(known)
    assert np.allclose(losses[known], -scores[wanted[known], rows, columns], atol=1e-5)
    assert not losses[~known].any() and np.array_equal(read, network.predict([picture])[0])
    verdict = judged(picture, panoptic, network, CLASSES)
    assert sum(verdict.pixels) == known.sum() and np.isclose(sum(verdict.losses), losses.sum(dtype=np.float64))
    assert verdict.agreement == (read == wanted)[known].mean()
