"""Drawing on a device: the host waits once per call, not in every step."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import nn

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


def test_no_denoising_step_walks_through_all_modules(pipe, make_map, monkeypatch):
    # Which asking a network for its type or device does: on a GPU the host is what a small batch waits for.
    walks, named_modules = [], nn.Module.named_modules
    monkeypatch.setattr(
        nn.Module,
        "named_modules",
        lambda self, *args, **named: walks.append(type(self)) or named_modules(self, *args, **named),
    )

    def of_steps(steps):
        walks.clear()
        pipe("", make_map(), num_inference_steps=steps)
        return len(walks)

    assert of_steps(2) == of_steps(4)
