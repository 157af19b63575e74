"""One file under original names gives the networks of the folder it was made of."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mamoe import LayoutPipeline
from mamoe.bases.originals import original_autoencoder, original_clip, original_names, original_open_clip, original_unet
from mamoe.bases.pretrained import BaseModel, load_base
from mamoe.bases.single_file import FAMILIES, SingleFile
from mamoe.errors import ConfigError

REAL_WORDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip_tokenizer"


def written(base: BaseModel, kind: str, path: Path) -> Path:
    text = base.text_encoder.state_dict()
    if kind == "sd15":
        words = original_clip(text, "cond_stage_model.transformer.")
    elif kind == "sd21":
        words = original_open_clip(text, "cond_stage_model.model.")
    else:
        assert base.text.text_encoder_2 is not None
        words = original_clip(text, "conditioner.embedders.0.transformer.")
        words |= original_open_clip(base.text.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    weights = {**original_unet(base.unet), **original_autoencoder(base.vae), **words}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, path)
    return path


@pytest.fixture(scope="module")
def files(base_model, xl_base, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("files")
    plain, two = load_base(str(base_model)), load_base(str(xl_base))
    bases = {"sd15": plain, "sd21": plain, "sdxl": two}
    return {kind: written(base, kind, root / f"{kind}.safetensors") for kind, base in bases.items()}


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_a_file_holds_the_networks_of_its_folder(files, base_model, xl_base, kind):
    folder = xl_base if kind == "sdxl" else base_model
    wanted, got = load_base(str(folder)), load_base(str(files[kind]), config=str(folder))
    pairs = [(wanted.unet, got.unet), (wanted.vae, got.vae), (wanted.text_networks, got.text_networks)]
    for one, other in pairs:
        weights, read = one.state_dict(), other.state_dict()
        assert weights.keys() == read.keys()
        assert all(
            read[name].dtype == torch.float32 and torch.equal(value, read[name]) for name, value in weights.items()
        )
    assert dict(got.scheduler.config) == dict(wanted.scheduler.config)
    assert got.text.force_zeros_for_empty_prompt == (kind == "sdxl")
    assert got.tokenizer("a red car").input_ids == wanted.tokenizer("a red car").input_ids


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_file_draws_what_its_folder_draws(files, base_model, xl_base, kind):
    folder = xl_base if kind == "sdxl" else base_model
    drawn = []
    for pipe in (
        LayoutPipeline.from_pretrained(folder),
        LayoutPipeline.from_pretrained(files[kind], config=str(folder)),
    ):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        asked = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
        drawn.append(pipe("red car", generator=generator, **asked).images)
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-5  # the weights lie elsewhere in memory


def test_the_family_is_told_by_the_file_or_asked_for(files, base_model, tmp_path):
    assert SingleFile(files["sd15"], None, None).folder.name == "sd15"
    assert SingleFile(files["sdxl"], None, None).folder.name == "sdxl"
    assert SingleFile(files["sd21"], "sd21_base", None).folder.name == "sd21_base"
    with pytest.raises(ConfigError, match=r"sd21 or sd21_base \(sd21: v_prediction, sd21_base: epsilon\)"):
        SingleFile(files["sd21"], None, None)
    with pytest.raises(ConfigError, match=r"of the family sd15, but model\.config=sdxl"):
        SingleFile(files["sd15"], "sdxl", None)
    with pytest.raises(ConfigError, match=r"model\.config=sd3: wanted one of sd15, sd21, sd21_base, sdxl, or a folder"):
        SingleFile(files["sd15"], "sd3", None)


@pytest.mark.real
@pytest.mark.skipif(not REAL_WORDS.exists(), reason="needs the real tokenizer beside the checkout")
def test_the_family_says_how_clips_words_are_padded(files):
    pads = {}
    for kind, part in (("sd15", "tokenizer"), ("sd21", "tokenizer"), ("sdxl", "tokenizer"), ("sdxl", "tokenizer_2")):
        config = "sd21_base" if kind == "sd21" else None
        tokenizer = SingleFile(files[kind], config, str(REAL_WORDS)).tokenizer(part)
        ids = tokenizer("a photo of a cat", padding="max_length").input_ids
        assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407] and len(ids) == 77
        pads[kind, part] = ids[-1]
    assert list(pads.values()) == [49407, 0, 49407, 0]


def test_a_missing_vocabulary_is_explained(files, tmp_path):
    for words in (None, str(tmp_path)):
        with pytest.raises(
            ConfigError, match=r"holds no tokenizer.*Set model\.tokenizer to a folder with CLIP's vocab"
        ):
            SingleFile(files["sd15"], None, words).tokenizer("tokenizer")


def test_what_is_no_base_model_is_refused(files, base_model, tmp_path):
    with pytest.raises(ConfigError, match=r"does not have the weights of sd15/unet.*Set model\.config"):
        load_base(str(files["sd15"]))  # narrower than the family
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"\.ckpt files are pickles, which can run any program"):
        load_base(str(tmp_path / "a.ckpt"))
    with pytest.raises(ConfigError, match="no such file"):
        load_base(str(tmp_path / "none.safetensors"))
    (tmp_path / "b.safetensors").write_bytes(b"12345678901")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        load_base(str(tmp_path / "b.safetensors"))
    save_file({"lora_unet_down.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError, match=r"is not a whole Stable Diffusion model.*lora_unet_down\.weight"):
        load_base(str(tmp_path / "lora.safetensors"))
    inpainting = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 9, 3, 3)}
    save_file({**inpainting, "cond_stage_model.transformer.x": torch.zeros(1)}, tmp_path / "inpainting.safetensors")
    with pytest.raises(ConfigError, match="reads 9 channels"):
        load_base(str(tmp_path / "inpainting.safetensors"))
    with pytest.raises(ConfigError, match=r"model\.config=sd15: only a single \.safetensors file needs that"):
        load_base(str(base_model), config="sd15")


# Keys, and characters of the sorted list of "name [shape]" in lines, of the files that were published: Stable Diffusion
# 1.5, 2.1 and XL, as a list of their parts for an inspecting tool has them.
PUBLISHED = {
    "sd15": {"model.diffusion_model.": (686, 36314), "first_stage_model.": (248, 10149)},
    "sd21": {"model.diffusion_model.": (686, 36218), "first_stage_model.": (248, 10149)},
    "sdxl": {"model.diffusion_model.": (1680, 101976), "first_stage_model.": (248, 10149)},
}
# Text encoders: the same, with what no program misses and is not written. Of Stable Diffusion 2 also the last layer,
# which its prompts do not pass.
OF_TEXT = {
    "sd15": ("cond_stage_model.transformer.text_model.", 8744, ["embeddings.position_ids [1,77]"]),
    "sd21": ("cond_stage_model.model.", 14193, ["logit_scale []", "text_projection [1024,1024]"]),
    "sdxl": ("conditioner.embedders.1.model.", 18913, ["logit_scale []"]),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_files(family):
    folder = FAMILIES / family
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        words = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        second = folder / "text_encoder_2"
        more = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(second)) if second.is_dir() else None
    names = original_names(unet, vae, words, more)

    def lines(prefix: str) -> list[str]:
        of = {key.removeprefix(prefix): value.shape for key, value in names.items() if key.startswith(prefix)}
        return [f"{key} [{','.join(map(str, shape))}]" for key, shape in of.items()]

    for prefix, published in PUBLISHED[family].items():
        assert (len(lines(prefix)), len("\n".join(lines(prefix)))) == published, prefix
    prefix, published, absent = OF_TEXT[family]
    if family == "sd21":
        last = [line for line in lines(prefix) if ".22." in line]
        assert len(last) == 12
        absent = [*absent, *(line.replace(".22.", ".23.") for line in last)]
    assert len("\n".join([*lines(prefix), *absent])) == published


def test_a_file_without_its_autoencoder_is_refused(base_model, files, tmp_path):
    base = load_base(str(base_model))
    text = original_clip(base.text_encoder.state_dict(), "cond_stage_model.transformer.")
    weights = {**original_unet(base.unet), **text}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, tmp_path / "half.safetensors")
    with pytest.raises(ConfigError, match=r"half.*base/vae.*AutoencoderKL"):
        load_base(str(tmp_path / "half.safetensors"), config=str(base_model))
    gone = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    kept = {**original_autoencoder(base.vae), **weights}
    save_file({key: kept[key].contiguous().clone() for key in kept if key != gone}, tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match=r"base/text_encoder: 1 are missing, the first .*final_layer_norm\.bias"):
        load_base(str(tmp_path / "text.safetensors"), config=str(base_model))
    del weights["model.diffusion_model.middle_block.0.in_layers.0.weight"]
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, tmp_path / "hole.safetensors")
    with pytest.raises(ConfigError, match=r"hole.*base/unet: some are missing"):
        load_base(str(tmp_path / "hole.safetensors"), config=str(base_model))


def test_a_refiner_is_refused(xl_base, tmp_path):
    folder = tmp_path / "refiner"
    shutil.copytree(xl_base, folder)
    index = (folder / "model_index.json").read_text()
    cut = index.replace(
        '"text_encoder": [\n    "transformers",\n    "CLIPTextModel"\n  ]', '"text_encoder": [null, null]'
    )
    assert cut != index
    (folder / "model_index.json").write_text(cut)
    with pytest.raises(
        ConfigError, match=r"StableDiffusionXLPipeline\) has no text encoder of the first kind; refiners"
    ):
        load_base(str(folder))
