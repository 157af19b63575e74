"""Bytes of pictures are made where they are drawn: the same as diffusers makes on the host."""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor

from mamoe.sampling.pixels import PictureProcessor


def test_bytes_are_those_of_diffusers():
    every = torch.linspace(-1.2, 1.2, 3 * 2 * 40 * 50).reshape(2, 3, 40, 50)
    halves = (torch.arange(256) + 0.5) / 127.5 - 1  # between two bytes
    every[0, 0, 0, :] = halves[:50]
    every[1, 2, 3, :] = halves[-50:]
    before = every.clone()
    ours, theirs = (kind().postprocess(every) for kind in (PictureProcessor, VaeImageProcessor))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(every, before)
    as_numbers = (kind().postprocess(every, output_type="np") for kind in (PictureProcessor, VaeImageProcessor))
    assert np.array_equal(*as_numbers)
