"""A FLUX.2-dev base model made on the spot: its parts in diffusers layout, of some thousand weights."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
)

from small_klein_base import flux2_autoencoder
from small_models import small_flux2

WIDTH = 8  # of a layer of the language model
PROMPT_TOKENS = 280  # its limit here, system message and padding included
_MARKS = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
_OF_PICTURES = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set text = message['content'][0]['text'] %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ text }}[/INST]{% endif %}{% endfor %}"
)


def byte_mistral_processor() -> PixtralProcessor:
    """A token per byte, padding before the words, and a chat template."""
    words = [*_MARKS, *_OF_PICTURES, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bare = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[*_MARKS[4:], *_OF_PICTURES],
        padding_side="left",
        model_max_length=PROMPT_TOKENS,
    )
    return PixtralProcessor(image_processor=PixtralImageProcessor(), tokenizer=tokenizer, chat_template=TEMPLATE)


def dev_pipeline() -> Flux2Pipeline:
    processor = byte_mistral_processor()
    torch.manual_seed(3)
    of_text = {
        "model_type": "mistral",
        "vocab_size": len(processor.tokenizer) + 5,
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 31,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 512,
    }
    of_pictures = {
        "model_type": "pixtral",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "head_dim": 8,
        "image_size": 16,
        "patch_size": 8,
    }
    text_encoder = Mistral3ForConditionalGeneration(Mistral3Config(vision_config=of_pictures, text_config=of_text))
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=flux2_autoencoder(),
        text_encoder=text_encoder.eval(),
        tokenizer=processor,
        transformer=small_flux2(joint_attention_dim=3 * WIDTH, guidance_embeds=True),
    )


def write_dev_base(folder: Path) -> Path:
    dev_pipeline().save_pretrained(folder)
    return folder
