"""Every way of fine-tuning, with and without MaMoE, from the command to the same picture again."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.assemble.data import VAL, dataset, layout_settings
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.runs.adapter import ADAPTER
from mamoe.sampling.batches import sample_batch
from mamoe.vocabulary.drawing import Drawing
from wholeruns import WEIGHTS, assert_equal, cut_back, tensors, trained

SMALL_RANK = ["method.rank=4", "method.alpha=4"]
METHODS = {
    "full": [],
    "decoder": [],
    "lora": SMALL_RANK,
    "dora": SMALL_RANK,
    "lora decoder": [*SMALL_RANK, "method.decoder_only=true"],
    "lora_experts": SMALL_RANK,
    "shared_expert": [],
    "controlnet_xs": ["data.condition=classes"],
    "concat": ["data.condition=edges"],
}
NEED_EXPERTS = ("lora_experts", "shared_expert")
CASES = [(name, steered) for name in METHODS for steered in (False, True) if steered or name not in NEED_EXPERTS]
STEPS = 4


def words_of(name: str, steered: bool) -> list[str]:
    switches = (
        []
        if steered
        else [
            "layout.region_attention=false",
            "layout.moe=false",
            "layout.global_prompt=true",
            "layout.global_padding=true",
        ]
    )
    return [f"method={name.split()[0]}", *METHODS[name], *switches]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steered"), CASES)
def test_trains_saves_reloads_and_samples_the_same_picture(name, steered, base_model, scenes, tmp_path, caplog):
    words = [*short_run(base_model, scenes, tmp_path), *words_of(name, steered)]
    words += [f"trainer.max_steps={STEPS}", "callbacks.validation=null", "optimizer.lr=1e-3", "trainer.threads=1"]
    words += [f"callbacks.samples={{every: {STEPS}, images: 1, steps: 2, modes: [cfg], guidance_scale: 4.0}}"]
    words += [f"callbacks.checkpoints.every={STEPS // 2}"]
    trained(*words)
    assert "not expected" not in caplog.text  # nothing reaches a network that does not know it
    run = only_run(tmp_path)

    config = validated(compose(words))
    source = dataset(config, VAL, layout_settings(config).taxonomy)
    (shown,) = (run / f"samples/step-{STEPS:08d}").glob("*.cfg.json")
    facts = json.loads(shown.read_text())
    sample = next(source[0, i] for i in range(len(source)) if source[0, i].key == facts["key"])
    pipe = LayoutPipeline.from_pretrained(run)
    pipe.set_progress_bar_config(disable=True)
    (again,) = sample_batch(pipe, [sample], [facts["seed"]], Drawing(steps=2, guidance_scale=4.0), layout=steered)
    first = Image.open(shown.with_suffix(".png"))
    assert np.abs(np.asarray(again, int) - np.asarray(first, int)).max() <= 1
    assert np.asarray(first).std() > 0

    copy = cut_back(run, tmp_path / "copy", STEPS // 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, STEPS), tensors(copy, STEPS))


@pytest.mark.slow
def test_an_adapter_is_saved_alone_and_resumed(base_model, scenes, tmp_path):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), "method=lora", *SMALL_RANK, "callbacks.samples=null"]
    trained(*words)
    run = only_run(tmp_path / "runs")
    folder = run / "checkpoints/latest/unet"
    assert not (folder / WEIGHTS).exists()
    state = load_file(folder / ADAPTER)
    assert state and all(".lora_" in name for name in state)
    assert json.loads((folder.parent / "recipe.json").read_text())["method"]["rank"] == 4
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    outcome = mamoe("export", run, tmp_path / "merged")
    assert outcome.code == 0, outcome.err
    assert LayoutPipeline.from_pretrained(tmp_path / "merged").unet.config["num_experts"] > 1


def test_a_run_is_not_resumed_with_another_rank(base_model, scenes, tmp_path):
    trained(*short_run(base_model, scenes, tmp_path / "runs"), "method=lora", *SMALL_RANK, "callbacks.samples=null")
    copy = cut_back(only_run(tmp_path / "runs"), tmp_path / "copy", 2)
    before = sorted(path.name for path in (copy / "checkpoints").iterdir())
    outcome = trained(f"resume={copy}", "method.rank=8", code=2)
    assert "method.rank was 4 and is 8" in outcome.err
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == before
