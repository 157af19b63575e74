"""Base models whose files are not all there, or not what they should be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mamoe.bases.pretrained import load_base
from mamoe.errors import ConfigError
from mamoe.sampling.pipeline import LayoutPipeline

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def base(base_model, tmp_path) -> Path:
    return Path(shutil.copytree(base_model, tmp_path / "base"))


def weights_of(base: Path, part: str) -> Path:
    (file,) = (base / part).glob("*.safetensors")
    return file


@pytest.mark.parametrize("part", PARTS)
def test_a_network_that_lacks_a_weight_is_refused(base, part):
    file = weights_of(base, part)
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "norm" in name)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"{part} cannot be read as a .*1 weights are missing, first '{name}'"):
        load_base(str(base))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("raw", "said"), [(LFS, "git lfs pull"), (b"", "it is empty")])
def test_a_note_in_place_of_weights_is_named(base, part, raw, said):
    weights_of(base, part).write_bytes(raw)
    with pytest.raises(ConfigError, match=rf"{part}/.*\.safetensors holds no weights: .*{said}"):
        load_base(str(base))


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_were_cut_off(base, part):
    file = weights_of(base, part)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"base/{part}"):
        load_base(str(base))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_of_another_shape_than_the_configuration(base, part):
    file = weights_of(base, part)
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"{part} cannot be read as a .*do not fit each other"):
        load_base(str(base))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("model_index.json", None, "model_index.json must hold a JSON object"),
        ("unet/config.json", None, "unet/config.json must hold a JSON object"),
        ("unet/config.json", {"cross_attention_dim": "32"}, "do not fit each other"),
        ("scheduler/scheduler_config.json", None, "must hold a JSON object"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "no noise schedule"),
        ("scheduler/scheduler_config.json", {"prediction_type": "eps"}, "no noise schedule .*epsilon"),
    ],
)
def test_configurations_of_another_type(base, file, change, said):
    plain = [] if change is None else {**json.loads((base / file).read_text()), **change}
    (base / file).write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=said):
        load_base(str(base))


def test_another_autoencoder_that_lacks_a_weight(base, base_model):
    file = weights_of(base, "vae")
    tensors = load_file(file)
    del tensors["decoder.conv_norm_out.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"vae cannot be read as a AutoencoderKL: 1 weights are missing"):
        load_base(str(base_model), vae=str(base / "vae"))


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "pipe"
    LayoutPipeline.from_pretrained(finished_run).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_saved_pipeline_that_lacks_a_weight_is_refused(exported, tmp_path, part):
    pipe = Path(shutil.copytree(exported, tmp_path / "pipe"))
    file = weights_of(pipe, part)
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "norm" in name)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"pipe/{part} cannot be read as a .*1 weights are missing, first '{name}'"):
        LayoutPipeline.from_pretrained(pipe)


def test_a_whole_saved_pipeline_is_read_as_before(exported, finished_run):
    ours, again = (LayoutPipeline.from_pretrained(place) for place in (finished_run, exported))
    for part in ("unet", "vae", "text_encoder"):
        for (name, one), other in zip(
            getattr(ours, part).state_dict().items(), getattr(again, part).state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), (part, name)
    assert LayoutPipeline.from_pretrained(exported, torch_dtype=torch.bfloat16).text_encoder.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("change", "said"),
    [(None, "must hold a JSON object"), ({"layout": "{}"}, "layout in model_index.json is not what .*taxonomy")],
)
def test_an_index_of_another_type(exported, tmp_path, change, said):
    pipe = Path(shutil.copytree(exported, tmp_path / "pipe"))
    plain = [] if change is None else {**json.loads((pipe / "model_index.json").read_text()), **change}
    (pipe / "model_index.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=said):
        LayoutPipeline.from_pretrained(pipe)
