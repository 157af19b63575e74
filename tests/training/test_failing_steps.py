"""Steps that fail before the weights change: what is kept, how one is replayed, or taken in smaller pieces."""

import functools
import json
import math

import pytest
import torch
from training_fakes import CPU, RECIPE, fit, make_data, make_module, weights

from mamoe.errors import CheckpointError, ConfigError, NonFiniteLossError
from mamoe.runs.manifest import problems_of
from mamoe.training.loop.explaining import OutOfMemoryError
from mamoe.training.loop.fit import Endurance
from mamoe.training.loop.metrics import read_rows
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.replay import replay

TWICE = {**CPU, "accumulate_grad_batches": 2}


class Unlucky(DiffusionModule):
    """Its loss is NaN for one picture of one pass over the data; its gradient too."""

    unlucky = None

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.unlucky in zip(batch.epoch.tolist(), batch.index.tolist(), strict=True):
            nan = (next(self.unet.parameters()).sum() * 0 - 1).sqrt()
            hit = [key == self.unlucky for key in zip(batch.epoch.tolist(), batch.index.tolist(), strict=True)]
            self.watch._losses[-1] = self.watch._losses[-1].masked_fill(torch.tensor(hit), math.nan)
            return loss + nan
        return loss


class Cramped(DiffusionModule):
    """Runs out of memory with more than so many pictures at once; on request only from some optimizer step on."""

    room, from_step, update_fails = 8, 0, False

    def loss_per_image(self, latents, *others, **options):
        if self.training and len(latents) > self.room and self.trainer.global_step >= self.from_step:
            raise torch.OutOfMemoryError("out of memory: injected")
        return super().loss_per_image(latents, *others, **options)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.update_fails:
            raise torch.OutOfMemoryError("out of memory: injected")


def train(run, module, **changes):
    settings = {"max_steps": 4, "checkpoint_every_n_steps": 3, "trainer": TWICE, "log_every_n_steps": 1}
    return fit(module, changes.pop("data", None) or make_data(batch_size=5), run, **{**settings, **changes})


def cramped():
    # Plain gradient descent: Adam would blow up rounding errors where a gradient is zero.
    return make_module(kind=Cramped, optimizer=functools.partial(torch.optim.SGD, lr=0.1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    module = cramped()
    train(tmp_path_factory.mktemp("whole"), module)
    return weights(module.unet)


def seen_in_step(step, size=5, accumulate=2):
    from mamoe.training.order.epochs import StreamBatches

    batches = list(StreamBatches(10, batch_size=size, num_batches=step * accumulate, seed=3))
    return [key for batch in batches[-accumulate:] for key in batch]


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_kept_and_replayed(tmp_path, capsys):
    module = make_module(kind=Unlucky)
    module.unlucky = seen_in_step(3)[7]
    with pytest.raises(NonFiniteLossError, match=r"Step 3: .*mamoe train resume=.*nonfinite-step-00000003.json"):
        train(tmp_path, module)
    before = weights(module.unet)
    # The state before the step is a checkpoint, and the file says everything about the step.
    kept = tmp_path / "checkpoints/step-00000002"
    assert problems_of(kept) == []
    report = tmp_path / "nonfinite-step-00000003.json"
    content = json.loads(report.read_text())
    assert (content["step"], content["checkpoint"]) == (3, "checkpoints/step-00000002")
    assert content["learning_rate"] == pytest.approx(1e-3) and content["grad_norm"] == "nan"
    assert [(p["epoch"], p["index"]) for p in content["pictures"]] == seen_in_step(3)
    losses = [float(p["loss"]) for p in content["pictures"]]
    assert [math.isfinite(loss) for loss in losses] == [True] * 7 + [False] + [True] * 2
    assert content["pictures"][7]["key"] == f"{module.unlucky[1]:03d}.png"

    # Taken again it fails again, and the operation is named.
    files = sorted(tmp_path.rglob("*"))
    again = make_module(kind=Unlucky)
    again.unlucky = module.unlucky
    with pytest.raises(NonFiniteLossError, match=r"Step 3 again: .*SqrtBackward0"), pytest.warns(UserWarning):
        replay(report, again, make_data(batch_size=5), recipe=RECIPE, trainer=TWICE)
    assert all(torch.equal(value, before[name]) for name, value in weights(again.unet).items())
    # Without the bad luck the very same step is taken: the same losses.
    lucky = make_module(kind=Unlucky)
    replay(report, lucky, make_data(batch_size=5), recipe=RECIPE, trainer=TWICE)
    assert "Step 3 is finite this time" in capsys.readouterr().out
    assert lucky.watch.loss == pytest.approx(sum(x for x in losses if math.isfinite(x)) / 10, rel=0.5)
    assert sorted(tmp_path.rglob("*")) == files
    # And the run goes on from the state that was kept.
    result = train(tmp_path, lucky, resume=tmp_path)
    assert result.step == 4 and "at step 2" in (tmp_path / "log.txt").read_text()


def test_a_file_that_replays_nothing_is_refused(tmp_path):
    (tmp_path / "nonfinite-step-00000003.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no file of a step"):
        replay(tmp_path / "nonfinite-step-00000003.json", make_module(), make_data(), recipe=RECIPE, trainer=CPU)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "pieces", "from_step"), [(3, 2, 0), (2, 4, 2)])
def test_smaller_pieces_give_the_same_weights(tmp_path, whole, room, pieces, from_step):
    # 5 pictures in pieces of 2 and 3, or of 1, 1, 1 and 2: each picture counts alike.
    module, data = cramped(), make_data(batch_size=5)
    module.room, module.from_step = room, from_step
    result = train(tmp_path, module, data=data, endurance=Endurance(auto_microbatch=True))
    assert (result.step, result.exit_code, data.pieces) == (4, 0, pieces)
    for name, value in weights(module.unet).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-6)
    assert [int(row["step"]) for row in read_rows(tmp_path / "metrics.csv")] == [1, 2, 3, 4]
    assert f"Step {from_step + 1}: out of memory" in (tmp_path / "log.txt").read_text()


def test_out_of_memory_says_how_much_was_held_and_what_to_do(tmp_path):
    module = cramped()
    module.room, module.from_step = 3, 2
    wanted = r"held at most \d+\.\d\d GiB of the machine's \d+\.\d\d GiB.*trainer.auto_microbatch=true"
    with pytest.raises(OutOfMemoryError, match=wanted) as caught:
        train(tmp_path, module)
    assert caught.value.exit_code == 5
    assert problems_of(tmp_path / "checkpoints/step-00000002") == []  # nothing of two steps is lost


@pytest.mark.parametrize(("room", "update_fails"), [(0, False), (8, True)])
def test_what_smaller_pieces_do_not_help_is_an_error(tmp_path, room, update_fails):
    module, data = cramped(), make_data(batch_size=4)
    module.room, module.update_fails = room, update_fails
    with pytest.raises(OutOfMemoryError):
        train(tmp_path, module, data=data, endurance=Endurance(auto_microbatch=True))
    assert data.pieces == (1 if update_fails else 4)


def test_several_devices_have_no_automatic_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.Trainer.world_size", 2)
    with pytest.raises(ConfigError, match="works on one device"):
        train(tmp_path, make_module(), endurance=Endurance(auto_microbatch=True))
