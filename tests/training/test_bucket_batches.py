"""Batches of one bucket each: every picture once per pass, full batches, resumable, the same for any world size."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mamoe.training.order.buckets import BucketBatches, bucket_batches_of_epochs, global_batches
from mamoe.training.order.epochs import StreamBatches

BUCKETS = [0, 1, 0, 0, 2, 1, 0, 0, 1, 0]  # 6, 3 and 1 pictures


def taken(count: int, buckets=BUCKETS, batch_size: int = 4, seed: int = 0) -> list:
    return list(itertools.islice(global_batches(buckets, batch_size, seed), count))


def test_one_bucket_is_the_plain_stream():
    share = {"batch_size": 4, "num_batches": 9, "seed": 3, "first": 8, "rank": 1, "world_size": 2}
    assert list(BucketBatches([7] * 10, **share)) == list(StreamBatches(10, **share))


@settings(max_examples=40, deadline=None)
@given(
    buckets=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    batch_size=st.integers(1, 6),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_every_picture_is_seen_once_per_pass_in_full_batches_of_one_bucket(buckets, batch_size, epochs, seed):
    batches = taken(bucket_batches_of_epochs(epochs, buckets, batch_size), buckets, batch_size, seed)
    for batch in batches:
        assert len(batch) == batch_size and len({buckets[index] for _, index in batch}) == 1
    seen = Counter(key for batch in batches for key in batch)
    assert max(seen.values()) == 1
    assert all(seen[epoch, index] == 1 for epoch in range(epochs) for index in range(len(buckets)))
    ahead = Counter(buckets[index] for epoch, index in seen if epoch >= epochs)
    assert all(count < batch_size for count in ahead.values())  # only what fills the last batches


def test_batches_of_a_pass_are_mixed_and_differ_between_passes_and_seeds():
    buckets = [0] * 40 + [1] * 40
    batches = taken(20, buckets)
    kinds = [buckets[batch[0][1]] for batch in batches]
    assert 4 < sum(a != b for a, b in itertools.pairwise(kinds))  # not one bucket after the other
    places = [sorted(index for _, index in batch) for batch in batches]
    assert len(set(map(tuple, places))) == 20 or places[:10] != places[10:]
    assert taken(20, buckets, seed=1) != batches == taken(20, buckets)


def test_a_stream_goes_on_where_it_stopped_in_the_middle_of_a_pass():
    whole = list(BucketBatches(BUCKETS, batch_size=4, num_batches=12, seed=2))
    for done in range(12):
        rest = BucketBatches(BUCKETS, batch_size=4, num_batches=12 - done, seed=2, first=4 * done)
        assert list(rest) == whole[done:] and len(rest) == 12 - done


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(world_size):
    share = {"batch_size": 4, "num_batches": 9, "seed": 1, "first": 4}
    alone = list(BucketBatches(BUCKETS, **share))
    ranks = [list(BucketBatches(BUCKETS, **share, rank=r, world_size=world_size)) for r in range(world_size)]
    for step, batch in enumerate(alone):
        assert sorted(itertools.chain(*(rank[step] for rank in ranks))) == sorted(batch)


def test_order_knows_seed_and_pass_alone():
    torch.manual_seed(1)
    one = taken(8)
    torch.manual_seed(2)
    torch.rand(3)
    assert taken(8) == one
