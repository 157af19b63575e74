"""Which maps are drawn how often."""

import numpy as np
import pytest

from mamoe.synthesis.plan import Aims, aimed, by_rank, plan, shared_out
from mamoe.synthesis.survey import MapFacts, hardness, mean_losses, sums_by_class


def facts(*pixels, flips=True) -> list[MapFacts]:
    return [
        MapFacts(place=i, key=f"{i}.png", pixels=np.array(one), flips=flips, movable=()) for i, one in enumerate(pixels)
    ]


def test_losses_of_classes_and_hardness_of_maps():
    losses = np.array([[1.0, 3.0], [5.0, 9.0]], dtype=np.float32)
    wanted = np.array([[0, 0], [1, 255]], dtype=np.uint8)
    sums = sums_by_class(losses, wanted, 3)
    assert sums.tolist() == [[4, 5, 0], [2, 1, 0]]
    means = mean_losses(sums)
    assert means.tolist() == [2, 5, 3]  # the last has no pixels: the mean of all
    assert hardness(facts([3, 1, 0], [0, 4, 0], [0, 0, 0]), means).tolist() == [2.75, 5, 0]


def test_weights_fall_with_the_rank():
    assert by_rank(np.array([1.0, 9.0, 5.0, 5.0])) == pytest.approx(np.array([1, 4, 3, 2]) / 10)


def test_counts_sum_up_and_follow_the_weights():
    weights = by_rank(np.array([4.0, 3.0, 2.0, 1.0]))
    assert shared_out(weights, 100) == [40, 30, 20, 10]
    assert shared_out(weights, 1) == [1, 0, 0, 0]
    for total in range(50):
        assert sum(shared_out(weights, total)) == total


def test_rare_classes_reach_their_share_and_the_rest_keeps_its_order():
    rng = np.random.default_rng(0)
    holds = rng.random((200, 3)) < [0.02, 0.1, 0.5]
    weights = by_rank(rng.random(200))
    found = aimed(weights, holds, 0.25)
    assert found.sum() == pytest.approx(1)
    assert (found @ holds >= 0.25 - 1e-4).all()
    plain = ~holds.any(axis=1)
    assert np.allclose(found[plain] / found[plain].sum(), weights[plain] / weights[plain].sum())


def test_classes_in_no_map_and_in_all_change_nothing():
    weights = by_rank(np.arange(4.0))
    holds = np.array([[False, True]] * 4)
    assert np.allclose(aimed(weights, holds, 0.25), weights)


def test_a_plan_is_a_function_of_its_input():
    given = facts(*np.random.default_rng(1).integers(0, 50, (30, 4)))
    hard = np.random.default_rng(2).random(30)
    one, again = (plan(given, hard, [2], Aims(pictures=40, seed=3)) for _ in range(2))
    assert one == again and len(one) == 40 and len({p.name for p in one}) == 40
    assert 5 < sum(p.flip for p in one) < 35 and 5 < sum(p.mix for p in one) < 35
    other = plan(given, hard, [2], Aims(pictures=40, seed=4))
    assert [p.place for p in other] == [p.place for p in one]  # how often is no matter of chance
    assert [p.flip for p in other] != [p.flip for p in one]


def test_maps_whose_prompts_speak_of_sides_are_not_mirrored():
    given = facts([1], [2], flips=False)
    assert not any(p.flip for p in plan(given, np.ones(2), [], Aims(pictures=20, flip=1.0)))
