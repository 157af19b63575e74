import json

import numpy as np
import pytest

from mamoe.commands.demo.scores import Judges, fit_judges, score
from mamoe.evaluation.layout.attributes import fit_vocabulary, named_colours, swap_colours
from mamoe.evaluation.layout.segmenter import Segmenter
from mamoe.scenes import draw_scene


class KnowsByBrightness(Segmenter):
    """Says class 1 where a picture is bright."""

    def predict(self, images):
        return [(image.mean(-1) > 100).astype(np.uint8) for image in images]


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, height=64, width=128) for seed in range(40)]


def test_each_kind_of_picture_is_measured_against_what_it_was_asked_for(scenes):
    images, maps, colours = [s.image for s in scenes], [s.panoptic for s in scenes], [s.colours for s in scenes]
    vocabulary = fit_vocabulary(images, maps, colours, min_area=60)
    rng = np.random.default_rng(0)
    swapped = [named_colours(swap_colours(s.instance_prompts, vocabulary, rng), vocabulary) for s in scenes]
    painted = []
    for scene, asked in zip(scenes, swapped, strict=True):
        image = scene.image.copy()
        for segment, word in asked.items():
            image[scene.panoptic.segment_id == segment] = vocabulary[word].astype(np.uint8)
        painted.append(image)
    judges = Judges(vocabulary=vocabulary, segmenter=KnowsByBrightness(2), num_classes=19)
    grey = [np.full_like(image, 128) for image in images]
    captions = [s.caption for s in scenes]
    scores = score(judges, maps, colours, swapped, captions, real=images, mamoe=grey, swapped=painted, base=painted)
    assert scores.real.rate > 0.8 and scores.swapped.rate == 1.0
    assert scores.base.rate < 0.2 and scores.mamoe.rate < 0.4
    assert scores.chance == 1 / len(vocabulary) < scores.caption_chance < 0.8
    known = np.stack([m.class_id for m in maps]) < 19
    sidewalk = np.stack([m.class_id for m in maps]) == 1
    assert scores.accuracy_mamoe == pytest.approx((sidewalk & known).sum() / known.sum())
    assert scores.accuracy_real != scores.accuracy_mamoe
    plain = json.loads(json.dumps(scores.to_dict()))
    assert plain["colour_swapped_to_real"] == round(scores.swapped.rate / scores.real.rate, 4)
    assert plain["layout_mamoe_to_real"] == round(scores.accuracy_mamoe / scores.accuracy_real, 4)


def test_judges_learn_from_the_training_pictures(scenes):
    steps = []
    judges = fit_judges(
        [s.image for s in scenes[:16]],
        [s.panoptic for s in scenes[:16]],
        [s.colours for s in scenes[:16]],
        num_classes=19,
        seed=0,
        progress=lambda done, total: steps.append(done),
    )
    assert len(steps) == 12 * 2 and len(judges.vocabulary) >= 2
    labels = judges.segmenter.predict([scenes[0].image])[0]
    assert (labels == scenes[0].panoptic.class_id).mean() > 0.5
