import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file

from mamoe.bases import tiny
from mamoe.bases.pretrained import load_base
from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError
from mamoe.scenes import Domain, draw_scene
from mamoe.vocabulary.taxonomy import Taxonomy

SEEDS = range(12)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Captions and prompts of some scenes of both domains, and the class prompts."""
    scenes = [draw_scene(seed, domain=domain, height=64, width=64) for seed in SEEDS for domain in Domain]
    said = [text for scene in scenes for text in (scene.caption, *scene.instance_prompts.values())]
    return [*said, *(c.prompt for c in Taxonomy.load("scenes").classes)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return tiny.new_tokenizer(texts)


def words_of(text: str) -> list[str]:
    return tiny.WORD.findall(text.lower())


def test_every_word_is_one_token(texts, tokenizer):
    for text in texts:
        tokens = tokenizer.tokenize(text)
        assert [token for token in tokens if token[:-4].isalpha()] == [f"{word}</w>" for word in words_of(text)], text


def test_text_comes_back(texts, tokenizer):
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert words_of(tokenizer.decode(ids, skip_special_tokens=True)) == words_of(text)


@pytest.mark.parametrize(
    "text", ["Xylophon Übergrößenträger", "a car\t\n42", "猫が好き 🙂", "", "a" * 300, "<|odd|> \\"]
)
def test_any_text_can_be_encoded(text, tokenizer):
    ids = tokenizer(text, truncation=True, padding="max_length").input_ids
    assert len(ids) == tiny.PROMPT_TOKENS
    assert 0 <= min(ids) and max(ids) < len(tokenizer)
    whole = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in whole or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in whole
    assert "".join(tokenizer.decode(whole).split()).lower() == "".join(text.split()).lower()


def test_different_texts_differ(tokenizer):
    others = ["a red car", "a redcar", "a car red", "a red cart", "red car", "a réd car"]
    assert len({tuple(tokenizer(text).input_ids) for text in others}) == len(others)


def test_the_vocabulary_does_not_depend_on_order(texts, tokenizer):
    again = tiny.new_tokenizer(reversed(texts))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert all(again(text).input_ids == tokenizer(text).input_ids for text in ["scarab", "redcar", *texts])
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


@pytest.fixture(scope="module")
def folder(texts, tmp_path_factory):
    with torch.random.fork_rng():
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=12,
        )
        out = tmp_path_factory.mktemp("tiny") / "base"
        scheduler = make_scheduler("v_prediction", zero_snr=True)
        tiny.write_untrained_base(out, autoencoder=autoencoder, scheduler=scheduler, texts=texts, seed=3)
        again = out.with_name("again")
        tiny.write_untrained_base(again, autoencoder=autoencoder, scheduler=scheduler, texts=texts, seed=3)
    return out


def size(network) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_sizes(folder):
    base = load_base(str(folder))
    assert size(base.unet) == pytest.approx(12.5, abs=0.1)
    assert size(base.text_encoder) == pytest.approx(1.9, abs=0.1)
    assert base.text_encoder.config.hidden_size == base.unet.config["cross_attention_dim"] == tiny.TEXT_WIDTH
    # Heads of 32 channels on every level.
    for block, width in zip(base.unet.down_blocks, (96, 128, 192), strict=True):
        assert block.attentions[0].transformer_blocks[0].attn1.heads == width // 32


def test_what_is_written_is_read(folder, texts):
    base = load_base(str(folder))
    assert base.scheduler.config["rescale_betas_zero_snr"] and base.scheduler.config["timestep_spacing"] == "trailing"
    assert base.tokenizer(texts[0]).input_ids == tiny.new_tokenizer(texts)(texts[0]).input_ids
    assert base.tokenizer.model_max_length == base.text_encoder.config.max_position_embeddings == 77
    assert {p.dtype for p in base.unet.parameters()} == {torch.float32}
    stock = StableDiffusionPipeline.from_pretrained(folder)
    assert torch.equal(stock.unet.conv_in.weight, base.unet.conv_in.weight)
    assert torch.equal(
        stock.text_encoder.get_input_embeddings().weight, base.text_encoder.get_input_embeddings().weight
    )


def test_the_seed_decides_the_weights(folder):
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        one, two = (load_file(folder.with_name(name) / f"{part}.safetensors") for name in ("base", "again"))
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_half_weights_are_read_as_float32(folder, tmp_path):
    StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16).save_pretrained(tmp_path)
    base = load_base(str(tmp_path))
    for network in (base.unet, base.vae, base.text_encoder):
        assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_missing_part_is_explained(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "base")
    shutil.rmtree(tmp_path / "base/vae")
    with pytest.raises(ConfigError, match=r"model\.path=.*base: the base model cannot be loaded"):
        load_base(str(tmp_path / "base"))
    shutil.copytree(folder / "vae", tmp_path / "base/vae")
    shutil.rmtree(tmp_path / "base/tokenizer")
    with pytest.raises(ConfigError, match=r"tokenizer of the base model knows \d tokens, its text encoder \d{3,}"):
        load_base(str(tmp_path / "base"))


def test_the_transformer_begins_by_saying_nothing_and_is_of_ten_million_weights_at_most():
    torch.manual_seed(0)
    network = tiny.new_transformer(12)
    assert size(network) == pytest.approx(9.1, abs=0.1)
    told = {"encoder_hidden_states": torch.randn(2, 5, tiny.TEXT_WIDTH), "timestep": torch.tensor([10.0, 900.0])}
    output = network(torch.randn(2, 12, 8, 16), **told).sample
    assert output.shape == (2, 12, 8, 16) and not output.any()
    output.sub(1).square().mean().backward()
    assert network.proj_out.weight.grad.any()
