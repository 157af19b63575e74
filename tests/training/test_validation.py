import pytest
import torch
from lightning.pytorch import Trainer
from training_fakes import Pictures, collate, make_module

from mamoe.errors import ConfigError
from mamoe.training.optim.ema import WeightAverage
from mamoe.training.step.draws import fixed_draws
from mamoe.training.watch.validation import FixedLoss, evaluating


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=folder, **quiet)


def fixed_loss(**changes):
    settings = {"name": "val/loss", "data": Pictures(12), "collate": collate, "batch_size": 4, "every_n_steps": 1}
    return FixedLoss(**{**settings, **changes})


def test_the_same_weights_give_the_same_number(trainer):
    module = make_module()
    loss = fixed_loss(count=7)
    first = loss.evaluate(trainer, module)
    torch.manual_seed(99)
    assert loss.evaluate(trainer, module) == first
    assert fixed_loss(count=7).evaluate(trainer, module) == first
    assert fixed_loss(count=7, seed=1).evaluate(trainer, module) != first
    with torch.no_grad():
        module.unet.conv_out.weight.mul_(1.1)
    assert loss.evaluate(trainer, module) != first


def test_batches_do_not_change_the_number_and_none_is_dropped(trainer):
    module = make_module()
    one_by_one = fixed_loss(count=7, batch_size=1).evaluate(trainer, module)
    assert fixed_loss(count=7, batch_size=4).evaluate(trainer, module) == pytest.approx(one_by_one, rel=1e-5)


@torch.no_grad()
def test_the_number_is_the_mean_over_the_chosen_pictures(trainer):
    module = make_module()
    index = [0, 3, 6, 9]  # 4 spread over 12
    batch = collate([Pictures(12)[0, i] for i in index])
    draws = fixed_draws(0, index, [0, 1, 2, 3], 4, (4, 8, 8), 1000)
    wanted = module.eval().loss_per_image(module.encode(batch), batch.regions, draws).mean().item()
    assert fixed_loss(count=4).evaluate(trainer, module) == pytest.approx(wanted, rel=1e-5)


def test_averaged_weights_are_used_on_request_and_modes_come_back(trainer):
    module = make_module()
    before = fixed_loss(use_ema=True).evaluate(trainer, module)
    module.ema = WeightAverage(module.trained, 0.9)
    module.unet.mid_block.eval()
    with torch.no_grad():
        module.unet.conv_out.weight.mul_(2)
    changed = fixed_loss(use_ema=False).evaluate(trainer, module)
    assert fixed_loss(use_ema=True).evaluate(trainer, module) == before != changed
    with evaluating(trainer, module, use_ema=False):
        assert not module.unet.training
    assert module.unet.training and not module.unet.mid_block.training


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="got 0 pictures"):
        fixed_loss(data=Pictures(0))
