"""trainer.compile: tried on the first batch, with the same result, and left out where it does not work."""

import pytest
import torch
from training_fakes import CPU, fit, make_data, make_module, weights


def train(run, **changes):
    module = make_module(**changes)
    fit(module, make_data(), run, max_steps=2, checkpoint_every_n_steps=5, trainer=CPU)
    return module


def test_what_cannot_be_compiled_is_trained_all_the_same(tmp_path, monkeypatch, caplog):
    def refuse(self, *args, **kwargs):
        self._compiled_call_impl = fails

    def fails(*args, **kwargs):
        raise RuntimeError("no compiler here\nmore of it")

    plain = train(tmp_path / "plain")
    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    for how in ("blocks", "full"):
        caplog.clear()
        module = train(tmp_path / how, compile=how)
        said = [record.message for record in caplog.records if "trainer.compile" in record.message]
        assert said == [f"trainer.compile={how} does not work here, the network is not compiled: no compiler here"]
        for name, value in weights(module.unet).items():
            assert torch.equal(value, plain.unet.state_dict()[name]), name


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["blocks", "full"])
def test_a_compiled_network_learns_the_same(tmp_path, how):
    torch.compiler.reset()
    plain, compiled = train(tmp_path / "plain"), train(tmp_path / "compiled", compile=how)
    assert any(module._compiled_call_impl is not None for module in compiled.unet.modules())
    for name, value in weights(compiled.unet).items():  # Adam takes whole steps where gradients are rounding alone
        torch.testing.assert_close(value, plain.unet.state_dict()[name], atol=2e-3, rtol=0)
    assert compiled.watch.loss == pytest.approx(plain.watch.loss, rel=1e-3)
