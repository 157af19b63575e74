"""Drawing on a device: the host waits once per call, not in every step."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from fakedevice import FakeDevice


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_no_denoising_step_waits_for_the_device(make_pipe, make_map, monkeypatch, kind):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    pipe = make_pipe()
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    between = []
    with FakeDevice() as device:
        device.put(pipe.unet, pipe.vae, pipe.text_encoder)
        pipe.unet.register_forward_pre_hook(lambda *_: between.append(device.tick()))
        pipe(
            "a street", make_map(), num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt"
        )
        pipe.unet._forward_pre_hooks.clear()
    assert len(between) == 4 and between[1:] == [[]] * 3
