"""Number formats and compiled blocks of `mamoe sample`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from factories import mamoe
from mamoe.machine.precision import drawing_format, format_name
from mamoe.sampling.fast import replayed_if_it_works, speed_up


def pixels(picture):
    return np.asarray(picture, dtype=np.float32)


def test_the_format_is_what_is_asked_for_or_what_the_device_has(monkeypatch):
    assert drawing_format("cpu") == torch.float32 and drawing_format("cpu", "bf16") == torch.bfloat16
    for has, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("mamoe.machine.precision.bf16_is_faster", lambda device, training, has=has: has)
        assert drawing_format("cuda") == wanted
    assert [format_name(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)] == [
        "fp32",
        "bf16",
        "float64",
    ]


@pytest.mark.slow
def test_pictures_in_bfloat16_say_so_and_are_never_mixed_with_others(finished_run, scenes, tmp_path):
    words = ["sample", finished_run, "--panoptic", scenes / "panoptic/test", "--steps", 2, "--out"]
    for precision in ("fp32", "bf16"):
        outcome = mamoe(*words, tmp_path / precision, "--precision", precision)
        assert outcome.code == 0, outcome.err
    names = sorted(path.name for path in (tmp_path / "fp32").glob("*.json"))
    assert names
    for name in names:
        full, half = (json.loads((tmp_path / kind / name).read_text()) for kind in ("fp32", "bf16"))
        assert half["precision"] == "bf16" and "precision" not in full
        a, b = (pixels(Image.open(tmp_path / kind / name.replace(".json", ".png"))) for kind in ("fp32", "bf16"))
        assert 0 < np.abs(a - b).mean() < 8
    again = mamoe(*words, tmp_path / "fp32", "--precision", "bf16")
    assert again.code == 3 and "precision" in again.err


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.slow
def test_compiled_blocks_draw_the_same(pipe, make_map):
    torch.compiler.reset()
    layout, told = make_map(), []

    def draw():
        return pipe(
            "a", layout, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images

    plain = draw()
    try:
        speed_up(pipe, layout.size, told.append)
        assert told == []
        assert any(module._compiled_call_impl is not None for module in pipe.unet.modules())
        torch.testing.assert_close(draw(), plain, atol=1e-4, rtol=1e-3)
    finally:
        uncompile(pipe.unet)


def test_pictures_of_nearly_as_many_words_share_a_recording(pipe, make_map):
    """Also those of regions that bind for a while; what stands in for a CUDA graph is the call itself."""
    made, kept, layout = [], [], make_map()

    def record(run):
        out = run().clone()
        made.append(1)
        return lambda: out.copy_(run()), out

    def draw(text, **further):
        own = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        return pipe("a", layout, {7: text}, **own, **further).images

    told = [("a red car", {}), ("a car in red, and new", {}), ("a blue car", {"regions_from": 0.5}), ("a car", {})]
    plain = [draw(text, **further) for text, further in told]
    # What layers make of a text is made in the first step of a picture, and a recording would not make it of the next.
    hook = (
        pipe.unet.down_blocks[0]
        .attentions[0]
        .register_forward_pre_hook(
            lambda layer, args, given: kept.append("kept" in given["cross_attention_kwargs"]), with_kwargs=True
        )
    )
    draw("a car")
    assert kept == [True] * 4
    kept.clear()
    listens = pipe.unet.register_forward_hook(lambda *called: None)  # and might change weights from step to step
    draw("a car")
    listens.remove()
    assert kept == [False] * 4
    kept.clear()
    assert replayed_if_it_works(pipe.unet, lambda: None, record) is None
    try:
        for (text, further), wanted in zip(told, plain, strict=True):
            torch.testing.assert_close(draw(text, **further), wanted, atol=1e-5, rtol=1e-4)
        assert len(made) == 2  # with regions, and before they bind
        assert kept and not any(kept)
    finally:
        hook.remove()
        uncompile(pipe.unet)


def test_blocks_that_cannot_be_compiled_draw_all_the_same(pipe, make_map, monkeypatch):
    def refuse(self, *args, **kwargs):
        self._compiled_call_impl = fails

    def fails(*args, **kwargs):
        raise RuntimeError("no compiler\nmore of it")

    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    told, layout = [], make_map()
    speed_up(pipe, layout.size, told.append)
    assert told == ["--fast does not work here, the pictures are drawn as without it: no compiler"]
    assert len(pipe("a", layout, num_inference_steps=1).images) == 1


def test_what_cannot_be_recorded_lies_in_memory_as_before(pipe, monkeypatch):
    def refuse(unet, *others):
        laid.append(unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last))
        return "no memory for it"

    laid, told = [], []
    monkeypatch.setattr(type(pipe), "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr("mamoe.sampling.fast.has_triton", lambda: True)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    monkeypatch.setattr("mamoe.sampling.fast.replayed_if_it_works", refuse)
    before = {name: weight.stride() for name, weight in pipe.unet.named_parameters()}
    speed_up(pipe, (64, 64), told.append)
    assert laid == [True] and len(told) == 1
    assert {name: weight.stride() for name, weight in pipe.unet.named_parameters()} == before


def uncompile(network):
    for module in network.modules():
        module._compiled_call_impl = None
