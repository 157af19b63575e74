"""Folders, files and settings of transformers in which text attends too that went wrong: refused in words, or right."""

import json
import shutil

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
)

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base
from mamoe.commands.check.network import check_network
from mamoe.conditioning.encoded import fingerprint
from mamoe.conditioning.encoders import encoder_for
from mamoe.errors import ConfigError, MamoeError
from small_flux2_dev_base import dev_pipeline
from small_flux_base import flux_pipeline
from small_klein_base import PROMPT_TOKENS, byte_qwen_tokenizer, klein_pipeline
from small_models import small_autoencoder
from small_qwen_base import qwen_pipeline
from small_sd3_base import sd3_pipeline
from small_z_image_base import z_image_pipeline
from wholeruns import SMALL

MADE = {
    "dev": dev_pipeline,
    "flux": flux_pipeline,
    "klein": klein_pipeline,
    "qwen": qwen_pipeline,
    "sd3": sd3_pipeline,
    "z": z_image_pipeline,
}
STOCK = {
    "dev": Flux2Pipeline,
    "flux": FluxPipeline,
    "klein": Flux2KleinPipeline,
    "qwen": QwenImagePipeline,
    "sd3": StableDiffusion3Pipeline,
    "z": ZImagePipeline,
}
PER_FAMILY = pytest.mark.parametrize("family", MADE)
SMALLEST = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}
EXPERTS = ["method=lora_experts", "method.rank=4", "method.alpha=8"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base model of every family."""
    folder = tmp_path_factory.mktemp("bases")
    for name, made in MADE.items():
        made().save_pretrained(folder / name)
    return folder


def changed(path, **values):
    """A JSON file with other values; None takes a key out."""
    plain = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))


def ddim(base):
    DDIMScheduler().save_pretrained(base / "scheduler")


def without_template(base):
    (base / "tokenizer/chat_template.jinja").unlink()


def template(text):
    return lambda base: (base / "tokenizer/chat_template.jinja").write_text(text)


def index(**values):
    return lambda base: changed(base / "model_index.json", **values)


def network(**values):
    return lambda base: changed(base / "transformer/config.json", **values)


def autoencoder(**values):
    return lambda base: changed(base / "vae/config.json", **values)


def lacking(part):
    return lambda base: shutil.rmtree(base / part)


def ordinary_autoencoder(base):
    made = json.loads((base / "vae/config.json").read_text())
    channels = made.get("latent_channels") or made["z_dim"]
    small_autoencoder(latent_channels=channels).save_pretrained(base / "vae")
    index(vae=["diffusers", "AutoencoderKL"])(base)


FAULTS = [
    ("qwen", ordinary_autoencoder, "knows the latents of an AutoencoderKLQwenImage, and vae/ has an AutoencoderKL"),
    ("klein", ordinary_autoencoder, "knows the latents of an AutoencoderKLFlux2, and vae/ has an AutoencoderKL"),
    *[(family, ddim, "predicts a flow, and scheduler/") for family in MADE],
    *[(family, lacking("tokenizer"), "files of tokenizer/ are missing") for family in MADE if family != "dev"],
    ("dev", lacking("tokenizer"), "cannot be loaded"),
    *[(family, network(axes_dims_rope=[2, 2, 2]), "axes_dims_rope must be") for family in ("flux", "klein", "qwen")],
    ("z", network(axes_dims=[2, 2, 2]), "axes_dims must be"),
    ("qwen", network(zero_cond_t=True), "it is shown pictures to edit"),
    *[(family, without_template, "chat template") for family in ("klein", "z")],
    ("z", template("{% for x in %}"), "none in tokenizer/ that can be read"),
    ("klein", template("<|im_start|>"), "leaves out what a user says"),
    ("qwen", index(tokenizer=["transformers", "CLIPTokenizer"]), "words of a Qwen2"),
    ("qwen", index(text_encoder=["transformers", "Qwen3Model"]), "of the kind qwen2_5_vl"),
    ("dev", index(tokenizer=["transformers", "Qwen2Tokenizer"]), "words of a Pixtral"),
    ("flux", index(text_encoder=["transformers", "T5EncoderModel"]), "of the kind clip_text_model"),
    ("z", index(vae=["diffusers", "AutoencoderKLWan"]), r"not known here \(vae: AutoencoderKLWan\)"),
    ("z", index(vae="vae"), "must name a library and a class"),
    ("z", index(tokenizer=None), "names no tokenizer"),
    ("flux", index(tokenizer_2=None), "names no tokenizer_2"),
    ("qwen", autoencoder(latents_mean=[0.0] * 3), "must be 4 numbers, one a channel"),
    ("qwen", autoencoder(latents_std=[0.0] * 4), "above 0"),
    ("flux", autoencoder(scaling_factor=0), "must not be 0"),
]


@pytest.mark.parametrize(("family", "spoil", "said"), FAULTS)
def test_a_folder_whose_parts_do_not_fit_is_refused_where_it_is_read(bases, tmp_path, family, spoil, said):
    base = tmp_path / "base"
    shutil.copytree(bases / family, base)
    spoil(base)
    with pytest.raises(ConfigError, match=said):
        load_base(str(base))


def test_the_leak_test_refuses_what_cannot_be_computed_before_it_reads_it(bases, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases / "z", base)
    network(axes_dims=[2, 2, 2])(base)
    with pytest.raises(ConfigError, match="axes_dims must be"):
        check_network(str(base), cells=4)


def test_a_tokenizer_that_begins_prompts_elsewhere_is_refused(bases, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases / "qwen", base)
    byte_qwen_tokenizer().save_pretrained(base / "tokenizer")  # in which the template is longer
    with pytest.raises(ConfigError, match="tokens of what is said before a prompt"):
        load_base(str(base))


@PER_FAMILY
def test_a_stock_pipeline_becomes_ours(bases, family):
    stock = STOCK[family].from_pretrained(bases / family)
    ours = LayoutPipeline.from_pipe(stock)
    assert ours.unet is stock.transformer
    ours.set_progress_bar_config(disable=True)
    read = LayoutPipeline.from_pretrained(bases / family)
    read.set_progress_bar_config(disable=True)
    pictures = [p("a car", generator=torch.Generator().manual_seed(1), **SMALLEST).images for p in (ours, read)]
    assert torch.equal(*pictures)


@PER_FAMILY
@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_schedulers_of_other_predictions_are_refused(bases, family, kind):
    pipe = LayoutPipeline.from_pretrained(bases / family)
    pipe.scheduler = kind()
    with pytest.raises(MamoeError, match=f"predicts a flow, and the scheduler .{kind.__name__}"):
        pipe("a car", **SMALLEST)


def test_a_scheduler_of_flows_is_taken(bases):
    pipe = LayoutPipeline.from_pretrained(bases / "z")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert pipe("a car", **SMALLEST).images.isfinite().all()
    assert isinstance(LayoutPipeline.from_pretrained(bases / "z").scheduler, FlowMatchEulerDiscreteScheduler)


@pytest.mark.parametrize("family", ["flux", "qwen"])  # whose shift grows, and here already with small pictures
def test_a_picture_for_which_the_schedule_has_no_levels_left_is_refused(bases, family):
    pipe = LayoutPipeline.from_pretrained(bases / family)
    with pytest.raises(ConfigError, match="one of 4096 patches is all noise in every step"):
        pipe("a car", **{**SMALLEST, "height": 1024, "width": 1024})


def test_what_other_pipelines_are_asked_is_answered(bases):
    pipe = LayoutPipeline.from_pretrained(bases / "qwen")
    with pytest.raises(MamoeError, match=r"true_cfg_scale is not taken here: .* guidance_scale"):
        pipe("a car", true_cfg_scale=4.0, **SMALLEST)


@torch.no_grad()
@pytest.mark.parametrize("family", ["klein", "qwen", "z"])
def test_a_prompt_that_names_special_tokens_is_read_as_the_stock_pipeline_reads_it(family):
    stock, prompts = MADE[family](), ["a<|endoftext|>b car", "a<|im_end|>\n x"]
    told = {} if family == "qwen" else {"max_sequence_length": PROMPT_TOKENS}
    wanted, mask = stock.encode_prompt(list(prompts), **told)  # Z-Image's changes the list that it is given
    if family == "qwen":
        wanted = [words[valid.bool()] for words, valid in zip(wanted, mask, strict=True)]
    got = encoder_for(stock.tokenizer, stock.text_encoder).encode(prompts, padded=family == "klein")
    for own, words in zip(got, wanted, strict=True):
        torch.testing.assert_close(own, words, rtol=1e-4, atol=1e-6)


def test_another_template_has_caches_of_its_own():
    pipe = z_image_pipeline()
    before = fingerprint(pipe.text_encoder, pipe.tokenizer)
    pipe.tokenizer.chat_template = pipe.tokenizer.chat_template.replace("<think>", "")
    assert fingerprint(pipe.text_encoder, pipe.tokenizer) != before


# LoRA files.

LAYER = dict.fromkeys(MADE, "transformer_blocks.0.attn.to_q") | {"z": "layers.0.attention.to_q"}


def lora(layer, width=32, prefix="transformer."):
    halves = {"lora_A": torch.ones(4, width), "lora_B": torch.ones(width, 4)}
    return {f"{prefix}{layer}.{half}.weight": weight for half, weight in halves.items()}


@PER_FAMILY
def test_lora_files_that_do_not_fit_are_refused(bases, family):
    pipe = LayoutPipeline.from_pretrained(bases / family)
    good = lora(LAYER[family])
    half = {name: weight for name, weight in good.items() if "lora_A" in name}
    faults = [
        (lora("blocks.9.of_another"), "first 'blocks.9.of_another', of which it has none"),
        (lora(LAYER[family], width=24), "reads and makes .24, 24. numbers where .32, 32."),
        (half, "lacks its lora_B"),
        ({}, "holds no LoRA layers"),
    ]
    for state, said in faults:
        with pytest.raises(ConfigError, match=said):
            pipe.load_lora_weights(dict(state))
        assert not any(".lora_A." in name for name, _ in pipe.unet.named_parameters())
    with pytest.warns(UserWarning, match="1 of the 2 LoRA layers of this file are left out"):
        pipe.load_lora_weights({**good, **lora("blocks.9.of_another")})
    assert sum(".lora_A." in name for name, _ in pipe.unet.named_parameters()) == 1
    pipe.unload_lora_weights()
    older = {name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): one for name, one in good.items()}
    if family == "flux":  # the names that diffusers had before peft
        pipe.load_lora_weights(older)
        assert any(".lora_A." in name for name, _ in pipe.unet.named_parameters())


def test_lora_files_in_names_that_nobody_knows_are_refused(bases):
    pipe = LayoutPipeline.from_pretrained(bases / "z")
    with pytest.raises(ConfigError, match="no LoRA file that diffusers can read for a ZImageTransformer2DModel"):
        pipe.load_lora_weights({"lora_unet_layers_0_attention_to_q.hada_w1_a": torch.ones(4, 4)})


# Trainings.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.prediction=epsilon", *EXPERTS], "objective.prediction=epsilon makes another model"),
        (["method=dora"], "Choose another method: lora, lora_experts"),
        (["regions.strength=learned", *EXPERTS], "set regions.strength=hard"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_encoded(bases, scenes, tmp_path, words, said):
    outcome = mamoe("train", *short_run(bases / "z", scenes, tmp_path), *words)
    assert outcome.code == 2 and said in " ".join(outcome.err.split())
    assert "Encoding" not in outcome.out


def test_a_run_on_a_base_model_of_another_family_is_refused(bases, scenes, tmp_path):
    outcome = mamoe("train", *short_run(bases / "z", scenes, tmp_path), *EXPERTS, *SMALL, "trainer.max_steps=1")
    assert outcome.code == 0, outcome.err
    run = only_run(tmp_path)
    with pytest.raises(ConfigError, match=r"beside a ZImage.*, and .* is a QwenImageTransformer2DModel"):
        LayoutPipeline.from_pretrained(run, base=bases / "qwen")
