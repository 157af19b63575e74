"""Why layouts cannot steer the transformers that are refused, tried on one block: a new diffusers may be another."""

import pytest
import torch
from diffusers import SanaTransformer2DModel

from mamoe.errors import ConfigError
from mamoe.models.backbones import backbone_of_class

WIDTH, TOKENS, SIDE = 16, 9, 8
RIGHT_TOKENS = torch.arange(TOKENS) >= 6


def seeded(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return network.eval()


def changes(call):
    """What another prompt of the right half changes, by column of a latent of SIDE x SIDE cells."""
    text = torch.randn((1, TOKENS, WIDTH), generator=torch.Generator().manual_seed(1))
    other = torch.where(RIGHT_TOKENS[:, None], text.flip(1) * 2 + 1, text)
    with torch.no_grad():
        return (call(other) - call(text)).abs().amax((0, 1, 2))


def noisy(channels=4):
    return torch.randn((1, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(2))


def test_it_is_refused_with_what_it_would_need():
    wanted = "cannot steer a SanaTransformer2DModel: .*convolution.*Known are UNet2DConditionModel"
    with pytest.raises(ConfigError, match=wanted):
        backbone_of_class(SanaTransformer2DModel)


def test_sana_carries_text_a_cell_further():
    network = seeded(
        SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=WIDTH,
            caption_channels=WIDTH,
            sample_size=SIDE,
            patch_size=1,
        )
    )
    right = (torch.arange(SIDE) >= SIDE // 2).repeat(SIDE)
    mask = torch.ones(1, SIDE * SIDE, TOKENS, dtype=torch.bool)
    mask[0, :, 3:6], mask[0, :, 6:] = ~right[:, None], right[:, None]
    by_column = changes(lambda text: network(noisy(), text, torch.tensor([500.0]), encoder_attention_mask=mask).sample)
    assert by_column[: SIDE // 2 - 1].max() == 0.0 < by_column[SIDE // 2 - 1] < by_column[SIDE // 2 :].min()
