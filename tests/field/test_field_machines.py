"""Other programs on the machine, and CPUs that only emulate bfloat16."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mamoe.machine import precision
from mamoe.machine.precision import autocast_where_faster, bf16_is_faster
from mamoe.machine.threads import CHOICES, SPINS, wait_politely
from mamoe.models.segmenter import train_segmenter
from mamoe.training.autoencoder import AutoencoderRecipe, train_autoencoder


@pytest.fixture
def fresh_environment(monkeypatch):
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_waiting_threads_spin_for_a_moment_only(fresh_environment):
    import os

    wait_politely()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    fresh_environment.delenv("GOMP_SPINCOUNT")


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_says_about_waiting_stands(fresh_environment, name):
    import os

    fresh_environment.setenv(name, "7")
    wait_politely()
    assert {key: os.environ.get(key) for key in CHOICES} == {key: "7" if key == name else None for key in CHOICES}


def test_the_command_decides_before_torch_is_loaded(fresh_environment):
    seen = (
        "import sys, os, mamoe.cli as cli\n"
        "cli.app = lambda: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))\n"
        "cli.main()"
    )
    said = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", SPINS]


@pytest.fixture
def emulated(monkeypatch):
    """A CPU on which bfloat16 exists and is slow."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(precision, "_seconds", lambda work, reduced: 1.15 if reduced else 0.07)
    bf16_is_faster.cache_clear()
    yield
    bf16_is_faster.cache_clear()


def test_emulated_bfloat16_is_chosen_by_nobody(emulated, monkeypatch):
    assert not bf16_is_faster("cpu", training=True) and not bf16_is_faster("cpu", training=False)
    formats = set()
    convolution = torch.nn.functional.conv2d

    def watched(input, *args, **kwargs):
        formats.add((torch.is_autocast_enabled("cpu"), input.dtype))
        return convolution(input, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    train_segmenter(images, images[..., 0], num_classes=2, seed=0, epochs=1)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    recipe = AutoencoderRecipe(
        block_out_channels=(16, 16, 16, 16), latent_channels=4, encoder_steps=1, decoder_steps=1, batch_size=1
    )
    train_autoencoder(pictures, recipe)
    with autocast_where_faster("cpu", training=False):
        assert not torch.is_autocast_enabled("cpu")
    assert formats == {(False, torch.float32)}


def test_the_faster_format_is_chosen_once_measured(emulated, monkeypatch):
    measured = []
    monkeypatch.setattr(
        precision, "_seconds", lambda work, reduced: measured.append(reduced) or (0.5 if reduced else 1.0)
    )
    assert bf16_is_faster("cpu", training=True) and bf16_is_faster("cpu", training=True)
    assert measured == [False, True]  # once for the whole process
    with autocast_where_faster("cpu", training=True):
        assert torch.is_autocast_enabled("cpu")


def test_measuring_leaves_no_trace_on_the_global_stream():
    bf16_is_faster.cache_clear()
    state = torch.get_rng_state()
    bf16_is_faster("cpu", training=True)
    assert torch.equal(state, torch.get_rng_state())
