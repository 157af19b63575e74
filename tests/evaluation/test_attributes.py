import numpy as np
import pytest

from mamoe.evaluation.layout.attributes import (
    MIN_AREA,
    HitRate,
    caption_chance,
    colour_hits,
    fit_vocabulary,
    instances_that_count,
    named_colours,
    swap_colours,
    swap_in_caption,
)
from mamoe.scenes import draw_scene
from mamoe.vocabulary.panoptic import PanopticMap

PAINTS = {"red": (200, 20, 20), "blue": (20, 20, 200), "green": (20, 160, 20)}


def two_boxes() -> PanopticMap:
    """Segment 1 has exactly MIN_AREA pixels, segment 2 one less."""
    segment = np.zeros((32, 32), dtype=np.int32)
    segment[:8, :24] = 1
    segment[16:24, :24] = 2
    segment[16, 0] = 0
    return PanopticMap(segment_id=segment, class_id=np.zeros((32, 32), dtype=np.uint8))


def painted(panoptic: PanopticMap, colours: dict[int, str]) -> np.ndarray:
    image = np.full((*panoptic.size, 3), 128, dtype=np.uint8)
    for segment, word in colours.items():
        image[panoptic.segment_id == segment] = PAINTS[word]
    return image


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, height=128, width=256) for seed in range(48)]


def split(scenes):
    return [s.image for s in scenes], [s.panoptic for s in scenes], [s.colours for s in scenes]


def test_real_pictures_show_their_colours_and_grey_ones_hit_by_chance(scenes):
    vocabulary = fit_vocabulary(*split(scenes[:32]))
    images, maps, colours = split(scenes[32:])
    real = colour_hits(images, maps, colours, vocabulary)
    assert real.n > 30 and real.hits / real.n >= 0.95
    grey = colour_hits([np.full_like(image, 128) for image in images], maps, colours, vocabulary)
    # One colour everywhere hits the instances of one word and no others.
    words = [
        c for m, of in zip(maps, colours, strict=True) for s, c in of.items() if (m.segment_id == s).sum() >= MIN_AREA
    ]
    assert grey.n == real.n == len(words) == instances_that_count(maps, colours)
    assert grey.hits in {words.count(word) for word in vocabulary}


def test_prompts_that_ask_for_another_colour_are_missed(scenes):
    vocabulary = fit_vocabulary(*split(scenes[:32]))
    images, maps, colours = split(scenes[32:])
    rng = np.random.default_rng(0)
    swapped = [named_colours(swap_colours(s.instance_prompts, vocabulary, rng), vocabulary) for s in scenes[32:]]
    assert [of.keys() for of in swapped] == [of.keys() for of in colours]
    missed = colour_hits(images, maps, swapped, vocabulary)
    assert missed.hits / missed.n <= 0.05


def test_three_latent_cells_are_enough_and_one_pixel_less_is_not():
    panoptic = two_boxes()
    colours = {1: "red", 2: "blue"}
    vocabulary = {word: np.array(paint, dtype=float) for word, paint in PAINTS.items()}
    right = painted(panoptic, colours)
    wrong = painted(panoptic, {1: "blue", 2: "blue"})
    assert colour_hits([right], [panoptic], [colours], vocabulary) == HitRate(hits=1, n=1)
    assert colour_hits([wrong], [panoptic], [colours], vocabulary) == HitRate(hits=0, n=1)
    assert colour_hits([wrong], [panoptic], [colours], vocabulary, min_area=1) == HitRate(hits=1, n=2)


def test_guessing_among_the_words_of_the_caption():
    """Alone in its caption: sure. One of two: a half. Not named: never. No colour named: one of all words."""
    colours = [{1: "red", 2: "blue"}] * 4
    captions = ["a red car", "a Red car and a blue bus", "a blue bus", "a street"]
    chance = caption_chance([two_boxes()] * 4, colours, captions, PAINTS)
    assert chance == pytest.approx((1 + 1 / 2 + 0 + 1 / 3) / 4)
    with pytest.raises(ValueError, match="No coloured instance of 192 pixels or more in 1 maps"):
        caption_chance([two_boxes()], [{2: "blue"}], ["a street"], PAINTS)


def test_vocabulary_is_the_mean_over_instances_not_pixels():
    panoptic = two_boxes()
    image = painted(panoptic, {1: "red"})
    image[panoptic.segment_id == 2] = (100, 0, 0)
    image[0, :24] = 0  # an eighth of instance 1
    colours = {1: "red", 2: "red"}
    with_blue = painted(panoptic, {1: "blue"})
    found = fit_vocabulary([image, with_blue], [panoptic] * 2, [colours, {1: "blue"}], min_area=MIN_AREA - 1)
    assert np.allclose(found["red"], [(200 * 7 / 8 + 100) / 2, 20 * 7 / 16, 20 * 7 / 16])
    assert np.allclose(found["blue"], PAINTS["blue"])


def test_swap_changes_every_named_colour_and_nothing_else():
    prompts = {
        1: "a red car",
        2: "a person in an orange coat",
        3: "a tree",
        4: "a RED and blue bus",
        5: "an infrared lamp",
    }
    words = ["red", "orange", "blue"]
    for seed in range(20):
        swapped = swap_colours(prompts, words, np.random.default_rng(seed))
        assert swapped == swap_colours(prompts, words, np.random.default_rng(seed))
        before, after = named_colours(prompts, words), named_colours(swapped, words)
        assert before == {1: "red", 2: "orange"} and after.keys() == before.keys()
        assert all(after[segment] != before[segment] for segment in before)
        assert {k: swapped[k] for k in (3, 4, 5)} == {k: prompts[k] for k in (3, 4, 5)}
        assert swapped[1] in ("an orange car", "a blue car")
        assert swapped[2] in ("a person in a red coat", "a person in a blue coat")
    drawn = {swap_colours(prompts, words, np.random.default_rng(seed))[1] for seed in range(20)}
    assert len(drawn) == 2
    assert prompts[1] == "a red car"


def test_caption_follows_the_swap():
    before = {1: "a red car", 2: "a red car", 3: "a person in a red coat"}
    after = {1: "an orange car", 2: "a blue car", 3: "a person in a green coat"}
    caption = "a street with a red car, a red carriage and a person in a red coat"
    assert swap_in_caption(caption, before, after) == (
        "a street with an orange car, a red carriage and a person in a green coat"
    )
    assert swap_in_caption(caption, {}, {}) == caption


def test_bad_input_is_explained():
    panoptic, vocabulary = two_boxes(), {"red": np.zeros(3), "blue": np.ones(3)}
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="as many"):
        colour_hits([image], [panoptic], [], vocabulary)
    with pytest.raises(ValueError, match=r"shape \(16, 32, 3\)"):
        colour_hits([image[:16]], [panoptic], [{1: "red"}], vocabulary)
    with pytest.raises(ValueError, match=r"\['pink'\] are not in the vocabulary"):
        colour_hits([image], [panoptic], [{1: "pink"}], vocabulary)
    with pytest.raises(ValueError, match="at least two colour words"):
        fit_vocabulary([image], [panoptic], [{1: "red"}])
    with pytest.raises(ValueError, match="at least two"):
        swap_colours({1: "a red car"}, ["red"], np.random.default_rng(0))
