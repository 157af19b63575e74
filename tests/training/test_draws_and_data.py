import itertools

import pytest
import torch
from training_fakes import Pictures, make_data

from mamoe.errors import ConfigError
from mamoe.training.order.epochs import StreamBatches, epoch_order, steps_of_epochs
from mamoe.training.step.draws import fixed_draws, posterior_noise, training_draws
from mamoe.training.step.timesteps import Places, TimestepKind, TimestepSampling, draw_timesteps

SHAPE = (4, 8, 8)


def test_draws_of_a_picture_do_not_depend_on_its_batch():
    together = training_draws(1, [0, 0, 3], [4, 5, 5], SHAPE, 1000, 0.5)
    for row, (epoch, index) in enumerate([(0, 4), (0, 5), (3, 5)]):
        alone = training_draws(1, [epoch], [index], SHAPE, 1000, 0.5)
        assert torch.equal(alone.noise[0], together.noise[row])
        assert alone.timesteps[0] == together.timesteps[row]
        assert alone.dropped[0] == together.dropped[row]


def test_draws_differ_between_epochs_pictures_seeds_and_purposes():
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in (0, 1)]
    noises = [training_draws(s, [e], [i], SHAPE, 1000, 0.5).noise for s, e, i in keys]
    noises += [posterior_noise(s, [e], [i], SHAPE) for s, e, i in keys]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(noises, 2))


def test_timesteps_and_dropout_have_the_asked_distribution():
    draws = training_draws(0, [0] * 4000, list(range(4000)), (1, 1, 1), 10, 0.1)
    counts = torch.bincount(draws.timesteps, minlength=10).float()
    assert len(counts) == 10
    assert (counts - 400).abs().max() < 5 * 400**0.5
    assert abs(draws.dropped.float().mean() - 0.1) < 5 * (0.09 / 4000) ** 0.5
    assert abs(float(draws.noise.var()) - 1) < 0.15


def test_logit_normal_timesteps_follow_the_closed_form():
    sampling = TimestepSampling(kind=TimestepKind.LOGIT_NORMAL, mean=0.5, std=0.8)
    keys = [(0, i) for i in range(4000)]
    timesteps = draw_timesteps(sampling, 0, keys, 1000)
    assert 0 <= timesteps.min() and timesteps.max() < 1000
    normal = torch.distributions.Normal(0.5, 0.8)
    for t in (200, 500, 800):
        wanted = float(normal.cdf(torch.logit(torch.tensor(t / 1000))))
        assert abs(float((timesteps < t).float().mean()) - wanted) < 5 * (wanted * (1 - wanted) / 4000) ** 0.5
    assert torch.equal(draw_timesteps(sampling, 0, keys[7:9], 1000), timesteps[7:9])


def test_stratified_timesteps_cover_all_levels_in_every_global_batch():
    sampling = TimestepSampling(kind=TimestepKind.STRATIFIED)
    keys = [(2, i) for i in range(8)]
    alone = draw_timesteps(sampling, 0, keys, 1000, Places(batch=3, first=0, stride=1, size=8))
    assert sorted((alone // 125).tolist()) == list(range(8))
    for rank in (0, 1):  # two processes see the same strata as one
        mine = draw_timesteps(sampling, 0, keys[rank::2], 1000, Places(batch=3, first=rank, stride=2, size=8))
        assert torch.equal(mine, alone[rank::2])
    other = draw_timesteps(sampling, 0, keys, 1000, Places(batch=4, first=0, stride=1, size=8))
    assert (other // 125).tolist() != (alone // 125).tolist()


def test_fixed_timesteps_are_stratified_and_never_drop():
    draws = fixed_draws(0, list(range(20)), list(range(20)), 20, SHAPE, 1000)
    assert (draws.timesteps // 50).tolist() == list(range(20))
    assert not draws.dropped.any()


def test_stream_sees_every_picture_once_per_epoch_without_dropping():
    batches = list(StreamBatches(10, batch_size=4, num_batches=5, seed=0))
    keys = [key for batch in batches for key in batch]
    assert [len(batch) for batch in batches] == [4] * 5
    assert sorted(keys) == [(epoch, i) for epoch in (0, 1) for i in range(10)]
    assert [i for _, i in keys[:10]] == epoch_order(0, 0, 10).tolist() != [i for _, i in keys[10:]]


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batches_are_the_same_for_any_number_of_processes(world_size):
    settings = {"batch_size": 8, "num_batches": 7, "seed": 1, "first": 3}
    alone = list(StreamBatches(10, **settings))
    ranks = [list(StreamBatches(10, **settings, rank=r, world_size=world_size)) for r in range(world_size)]
    for step, batch in enumerate(alone):
        assert sorted(itertools.chain(*(rank[step] for rank in ranks))) == sorted(batch)


def test_stream_continues_where_it_stopped():
    whole = list(StreamBatches(10, batch_size=4, num_batches=9, seed=2))
    rest = list(StreamBatches(10, batch_size=4, num_batches=4, seed=2, first=5 * 4))
    assert rest == whole[5:]


def test_stream_refuses_what_cannot_be_dealt_out():
    with pytest.raises(ConfigError, match="got 5 for 2 processes"):
        StreamBatches(10, batch_size=5, num_batches=1, seed=0, world_size=2)
    with pytest.raises(ConfigError, match="empty"):
        StreamBatches(0, batch_size=1, num_batches=1, seed=0)


def test_steps_of_epochs_rounds_up():
    assert steps_of_epochs(3, 10, 4) == 8
    assert steps_of_epochs(3, 10, 4, accumulate=2) == 4


class _Trainer:
    """What a data module asks of a trainer."""

    max_steps, global_step, accumulate_grad_batches, global_rank, world_size = 4, 0, 2, 0, 1


@pytest.mark.usefixtures("data_workers")
@pytest.mark.slow
def test_order_does_not_depend_on_the_number_of_workers():
    def keys(num_workers: int) -> list:
        data = make_data(10, num_workers=num_workers)
        data.trainer = _Trainer()
        return [(b.epoch.tolist(), b.index.tolist(), b.image.sum().item()) for b in data.train_dataloader()]

    assert keys(0) == keys(2)
    assert len(keys(0)) == 8


def test_waiting_time_is_the_loaders():
    class Slow(Pictures):
        def __getitem__(self, key):
            import time

            time.sleep(0.02)
            return super().__getitem__(key)

    data = make_data(train=Slow(4))
    data.trainer = _Trainer()
    for _ in itertools.islice(data.train_dataloader(), 2):
        pass
    assert 0.16 <= data.take_waited() < 2
    assert data.take_waited() == 0
