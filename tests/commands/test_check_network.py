"""`mamoe check --model`: the leak test of whatever somebody brings."""

import json
from types import SimpleNamespace

import psutil
import pytest
import torch

from factories import mamoe, only_run, short_run
from mamoe.bases.pretrained import load_base
from mamoe.commands.check.network import check_network
from small_pixart_base import write_pixart_base
from wholeruns import SMALL, trained

HOLD = "Layouts hold"


@pytest.fixture(scope="module")
def pixart_base(tmp_path_factory):
    return write_pixart_base(tmp_path_factory.mktemp("pixart"))


def checked(place, *words):
    return mamoe("check", "--model", place, *words)


def test_the_table_the_verdict_and_the_json(base_model, tmp_path):
    outcome = checked(base_model, "--out", tmp_path / "out", "--size", "8")
    assert outcome.code == 0 and HOLD in outcome.out and "GiB more" in outcome.err
    found = json.loads((tmp_path / "out/leaks.json").read_text())
    assert found["problems"] == [] and found["cells"] == [8, 8] and found["dtype"] == "float32"
    assert found["weights"] == sum(p.numel() for p in load_base(str(base_model)).unet.parameters())
    for layer in found["layers"]:
        assert layer["left"] == layer["gradient"] == 0.0 < min(layer["right"], layer["open_left"])
        assert layer["name"].endswith("attn2")
    assert 0 < found["whole"]["left"] and found["identity"] < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["one encoder", "two encoders", "pixart", "shipped"])
def test_every_family_passes(base_model, xl_base, pixart_base, kind, precision):
    place = {"one encoder": base_model, "two encoders": xl_base, "pixart": pixart_base, "shipped": "package:tiny"}
    text, problems = check_network(str(place[kind]), cells=16, precision=precision)
    assert not problems and HOLD in text and precision in text


def test_what_was_trained_here_passes_as_it_is(finished_run, pixart_base, scenes, tmp_path):
    assert HOLD in checked(finished_run).out
    words = [*short_run(pixart_base, scenes, tmp_path / "runs"), *SMALL, "callbacks.samples=null"]
    trained(*words, "method=lora", "method.rank=4", "method.conv=false", "trainer.max_steps=1")
    run = only_run(tmp_path / "runs")
    assert HOLD in checked(run).out
    assert mamoe("export", run, tmp_path / "out", "--weights", "fp32").code == 0
    outcome = checked(tmp_path / "out")
    assert HOLD in outcome.out and "MaMoEPixArtTransformer2DModel" in outcome.out


def test_blocks_left_open_are_shown_apart(base_model, scenes, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *SMALL, "callbacks.samples=null"]
    trained(*words, "layout.blocks=[1]", "trainer.max_steps=1")
    run = only_run(tmp_path / "runs")
    other = mamoe("train", f"resume={run}", "trainer.max_steps=2", "layout.blocks=[0]")
    assert other.code == 2 and "layout.blocks was [1] and is [0]" in other.err
    assert mamoe("export", run, tmp_path / "out", "--weights", "fp32").code == 0
    for place in (run, tmp_path / "out"):
        outcome = checked(place, "--out", tmp_path / "found")
        assert outcome.code == 0 and "layers that read text by region: 1" in outcome.out
        layers = json.loads((tmp_path / "found/leaks.json").read_text())["layers"]
        assert f"Layouts hold in 1 of {len(layers)} layers" in outcome.out
        assert [layer["left"] == 0.0 for layer in layers] == [layer["held"] for layer in layers]


def test_a_leak_ends_the_command(base_model, monkeypatch):
    monkeypatch.setattr("mamoe.models.blocks.block.mask_for", lambda attn, attend, dtype: torch.ones_like(attend))
    outcome = checked(base_model)
    assert outcome.code == 2 and "let a region's text out" in outcome.out and "do not steer" in outcome.err


def test_what_cannot_be_looked_at_is_refused(pixart_base, base_model, tmp_path, monkeypatch):
    index = json.loads((pixart_base / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "SanaTransformer2DModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for words, said in (
        ([tmp_path], "convolution"),
        ([tmp_path / "nowhere"], "no folder or file"),
        ([pixart_base, "--size", "7"], "a multiple of 2"),
        ([base_model, "--size", "2"], "at least 4"),
        ([base_model, "--fix", tmp_path / "out"], "--fix belong to the check of a data set"),
    ):
        outcome = checked(*words)
        assert outcome.code == 2 and said in outcome.err, outcome.err
    assert mamoe("check").code == 2
    outcome = mamoe("check", pixart_base, "--size", "8")
    assert outcome.code == 2 and "--size belong to the check of --model alone" in outcome.err
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**10))
    outcome = checked(base_model)
    assert outcome.code == 2 and "--precision bf16" in outcome.err
