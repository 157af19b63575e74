"""Standardised text features are easier to learn from, and the model is the same function."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from mamoe.bases.text_scale import standardise_text


def small_models() -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
    ).eval()
    torch.nn.init.normal_(text.final_layer_norm.bias, mean=2.0)  # the direction all words share
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    return text, unet


@torch.no_grad()
def test_the_composition_is_unchanged_and_the_features_are_standard():
    text, unet = small_models()
    tokens = torch.randint(50, (64, 8), generator=torch.Generator().manual_seed(1))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([10, 900])

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        features = text(tokens).last_hidden_state
        return unet(latents, times, features[:2]).sample, features.flatten(0, 1)

    before, features = run()
    standardise_text(text, unet, features)
    after, standard = run()
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(standard.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(16), atol=1e-4, rtol=0)
    assert features.mean(0).norm() > 5  # there was something to take away
