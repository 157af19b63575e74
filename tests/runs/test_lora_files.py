"""A trained LoRA in files that stock pipelines load, with the picture the run itself draws."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from factories import mamoe, only_run, short_run
from mamoe.commands.export import export_lora
from mamoe.errors import ConfigError
from mamoe.methods.lora_file import LoraFile, lora_problems, lora_state
from wholeruns import trained

STOCK = ["layout.region_attention=false", "layout.moe=false", "layout.global_prompt=true", "layout.global_padding=true"]
SMALL = ["method.rank=4", "method.alpha=2", "optimizer.lr=1e-2", "callbacks.samples=null", "callbacks.validation=null"]


def run_of(base_model, scenes, folder, *words):
    trained(*short_run(base_model, scenes, folder), *SMALL, *words)
    return only_run(folder)


@pytest.fixture(scope="module")
def stock_lora(base_model, scenes, tmp_path_factory):
    return run_of(base_model, scenes, tmp_path_factory.mktemp("lora"), "method=lora", *STOCK)


def picture(pipe, scheduler):
    pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
    return pipe("a car on a street", generator=torch.Generator().manual_seed(0), **options).images[0]


def assert_the_files_draw_what_the_run_draws(run, base_model, out, formats):
    code = mamoe("export", run, out / "merged", "--weights", "fp32")
    assert code.code == 0, code.err
    merged = StableDiffusionPipeline.from_pretrained(out / "merged", safety_checker=None)
    base = StableDiffusionPipeline.from_pretrained(base_model, safety_checker=None)
    scheduler = merged.scheduler
    wanted = picture(merged, scheduler)
    assert np.abs(picture(base, scheduler) - wanted).max() > 0.01
    for form in formats:
        written = mamoe("export", run, out / form, "--format", form, "--weights", "fp32")
        assert written.code == 0, written.err
        assert LoraFile(form).file_name in written.out
        base.load_lora_weights(out / form, weight_name=LoraFile(form).file_name)
        assert np.abs(picture(base, scheduler) - wanted).max() < 1e-4
        base.unload_lora_weights()


@pytest.mark.slow
def test_a_stock_pipeline_loads_a_lora_and_draws_the_same(stock_lora, base_model, tmp_path):
    assert_the_files_draw_what_the_run_draws(stock_lora, base_model, tmp_path, list(LoraFile))
    refused = mamoe("export", stock_lora, tmp_path / "kohya", "--format", "kohya")
    assert refused.code == 2 and "is not empty" in refused.err


@pytest.mark.parametrize("form", list(LoraFile))
def test_the_code_on_its_card_runs(stock_lora, base_model, tmp_path, monkeypatch, form):
    export_lora(stock_lora, tmp_path / "out", form=form)
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "A lora adapter of [base]" in text and "library_name: diffusers" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    code = code.replace("base = 'base'", f"base = {str(base_model)!r}").replace(
        "generator=", "num_inference_steps=1, generator="
    )
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(code, "card", "exec"), {})
    assert (tmp_path / "out/drawn.png").is_file()


@pytest.mark.slow
def test_a_stock_pipeline_loads_a_dora_and_draws_the_same(base_model, scenes, tmp_path):
    run = run_of(base_model, scenes, tmp_path / "runs", "method=dora", *STOCK)
    assert_the_files_draw_what_the_run_draws(run, base_model, tmp_path, [LoraFile.DIFFUSERS])
    with pytest.raises(ConfigError, match=r"no agreed place in kohya's format"):
        export_lora(run, tmp_path / "other", form=LoraFile.KOHYA)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_has_no_place_is_named(base_model, scenes, tmp_path):
    run = run_of(base_model, scenes, tmp_path / "a", "method=lora", "model.train_text_encoder=true")
    with pytest.raises(ConfigError, match=r"belong to experts.*; the text encoder was trained itself"):
        export_lora(run, tmp_path / "out", form=LoraFile.DIFFUSERS)
    run = run_of(base_model, scenes, tmp_path / "b", "method=lora_experts")
    with pytest.raises(ConfigError, match=r"method=lora_experts: LoRA files hold what method=lora and dora train"):
        export_lora(run, tmp_path / "out", form=LoraFile.DIFFUSERS)


def test_reasons_by_name():
    def reasons(*names, form=LoraFile.DIFFUSERS):
        return lora_problems({name: torch.zeros(1) for name in names}, form)

    layer = "up_blocks.0.attentions.0.transformer_blocks.0.ff"
    assert reasons(f"{layer}.net.2.lora_A.default.weight") == []
    assert "1 weights belong to experts" in reasons(f"{layer}.experts.0.net.2.lora_A.default.weight")[0]
    assert "2 weights are trained themselves" in reasons("conv_norm_out.weight", "conv_out.weight")[0]
    sizes = f"{layer}.net.2.lora_magnitude_vector.default.weight"
    assert reasons(sizes) == [] and "DoRA" in reasons(sizes, form=LoraFile.KOHYA)[0]


def test_both_formats_hold_the_same_product():
    state = {"a.b.lora_A.default.weight": torch.randn(2, 5), "a.b.lora_B.default.weight": torch.randn(3, 2)}
    theirs = lora_state(state, LoraFile.DIFFUSERS, rank=2, alpha=3.0)
    kohya = lora_state(state, LoraFile.KOHYA, rank=2, alpha=3.0)
    wanted = 1.5 * state["a.b.lora_B.default.weight"] @ state["a.b.lora_A.default.weight"]
    assert torch.allclose(theirs["unet.a.b.lora_B.weight"] @ theirs["unet.a.b.lora_A.weight"], wanted)
    up, down, alpha = (kohya[f"lora_unet_a_b.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    assert torch.allclose(alpha / len(down) * up @ down, wanted)
