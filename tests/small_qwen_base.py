"""A Qwen-Image base model made on the spot: its parts in diffusers layout, of some thousand weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from small_klein_base import byte_qwen_tokenizer
from small_models import small_qwen

WIDTH = 16  # of the language model
DROPPED = 34  # tokens of the template before the prompt, of the real tokenizer and of this one
PROMPT_TOKENS = 150  # what is left of its limit here
# As the published one, but that its line of shifts lies where these small pictures are.
SCHEDULE = {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 4,
    "max_image_seq_len": 64,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
}


def byte_describing_tokenizer() -> Qwen2Tokenizer:
    """A token per byte, but that what the pipeline says before a prompt takes as many as of the real one."""
    tokenizer = byte_qwen_tokenizer()
    template = QwenImagePipeline(None, None, None, None, None).prompt_template_encode
    sentence = template.partition("system\n")[2].partition("<|im_end|>")[0]
    first, *words = sentence.split(" ")
    tokenizer.add_tokens([first, *(f" {word}" for word in words[:-2]), " " + " ".join(words[-2:])])
    assert len(tokenizer(template.partition("{}")[0]).input_ids) == DROPPED
    tokenizer.model_max_length = PROMPT_TOKENS + DROPPED
    return tokenizer


def small_films() -> AutoencoderKLQwenImage:
    """Latents of four channels, three halvings."""
    generator = torch.Generator().manual_seed(8)
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=(torch.randn(4, generator=generator) * 0.1).tolist(),
        latents_std=(torch.rand(4, generator=generator) + 0.5).tolist(),
    ).eval()


def qwen_pipeline() -> QwenImagePipeline:
    tokenizer = byte_describing_tokenizer()
    torch.manual_seed(3)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 5,
            "hidden_size": WIDTH,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULE),
        vae=small_films(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=small_qwen(joint_attention_dim=WIDTH),
    )


def write_qwen_base(folder: Path) -> Path:
    qwen_pipeline().save_pretrained(folder)
    return folder
