"""Colours become bytes where they were drawn."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor


class PictureProcessor(VaeImageProcessor):
    """diffusers' processor, with the same bytes made on the device: a quarter of them comes to the host."""

    def postprocess(self, image: Tensor, output_type: str = "pil", do_denormalize: list[bool] | None = None) -> Any:
        """See diffusers'; ``image`` is float32 [B 3 H W], about in [-1, 1]."""
        if output_type != "pil" or do_denormalize is not None or not self.config["do_normalize"]:
            return super().postprocess(image, output_type, do_denormalize)
        shares = (image.float() * 0.5 + 0.5).clamp_(0, 1)
        pixels = shares.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [Image.fromarray(picture) for picture in pixels]
