"""What the suite makes once is what would be made each time."""

import pytest

import once


def outcome(compose, overrides, whole):
    try:
        return compose(overrides, "train", whole=whole)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.root=/x", "runs=/y"],
        ["experiment=demo", "model.path=/a b", "optimizer.lr=3"],
        ["callbacks=none", "experiment=demo", "trainer.max_steps=3"],
        ["~logger", "experiment=mamoe", "trainer=gpu_24gb"],
        ["++data.extra={a: [1, 2]}", "+data.new=2", "seed=1", "seed=2", "~data.root"],
        ["model.path=${data.root}", "data.root=/k"],
        ["~seed=5"],
        ["data.bach_size=1"],
        ["experiment=nonsense"],
        ["+experiment=demo"],
        ["data={a: 1}"],
        ["method@there=lora"],
        ["seed=1,2"],
        ["data.root=[a"],
    ],
)
def test_a_composition(overrides):
    for whole in (False, True):
        expected = outcome(once._composed, overrides, whole)
        assert outcome(once._composed_before, overrides, whole) == expected
        assert outcome(once._composed_before, overrides, whole) == expected
