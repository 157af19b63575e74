"""A full disk, Ctrl-C or a killed process while a folder is written: whole or not at all, and the next try works."""

import errno
import logging
import os
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from factories import mamoe
from mamoe.data.scenes import write_scenes
from mamoe.errors import ConfigError
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.staging import DiskFullError, replaced_file, staged_folder, write_whole

# As the libraries say it: safetensors and tokenizers write from Rust, everything else through the system.
FULL_DISKS = [
    OSError(errno.ENOSPC, "No space left on device", "model.bin"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    Exception("No space left on device (os error 28)"),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", FULL_DISKS, ids=lambda error: type(error).__name__)
def test_a_folder_is_whole_or_not_there(error, tmp_path):
    with (
        pytest.raises(DiskFullError, match=r"full after 0\.0 MiB.* free") as caught,
        staged_folder(tmp_path / "out") as f,
    ):
        (f / "half").write_text("half")
        raise error
    assert caught.value.exit_code == 6 and names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with staged_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("whole")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["whole"]
    with pytest.raises(ConfigError, match="would be overwritten"), staged_folder(tmp_path / "out"):
        pass


def test_what_a_killed_process_left_is_removed_and_named_but_not_what_a_living_one_writes(tmp_path, caplog):
    dead = tmp_path / ".out.partial-dead"
    dead.mkdir()
    (dead / "half").write_text("half")
    (tmp_path / ".outer.partial-other").mkdir()
    with caplog.at_level(logging.WARNING), staged_folder(tmp_path / "out") as folder:
        assert not dead.exists() and str(dead) in caplog.text
        with staged_folder(tmp_path / "out") as second:  # as another process at the same time
            assert folder.exists() and second != folder
            (second / "a").write_text("second")
        with pytest.raises(OSError):  # the place is taken now: nothing is overwritten
            (folder / "a").write_text("first")
            folder.replace(tmp_path / "out")
        (tmp_path / "out" / "a").unlink()
    assert names(tmp_path) == [".outer.partial-other", "out"]


def test_a_file_is_whole_or_as_it_was(tmp_path):
    write_whole("old", tmp_path / "table.md")
    with pytest.raises(OSError), replaced_file(tmp_path / "table.md") as partial:
        partial.write_text("ne")
        raise FULL_DISKS[0]
    assert names(tmp_path) == ["table.md"] and (tmp_path / "table.md").read_text() == "old"


@pytest.mark.parametrize("error", [FULL_DISKS[0], FULL_DISKS[2], KeyboardInterrupt()], ids=["os", "rust", "ctrl-c"])
def test_an_export_that_ends_half_way_leaves_nothing(error, finished_run, tmp_path, monkeypatch):
    def half(self, folder, **options):
        self.text_encoder.save_pretrained(Path(folder) / "text_encoder")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(LayoutPipeline, "save_pretrained", half)
        outcome = mamoe("export", finished_run, tmp_path / "out")
    assert outcome.code == (130 if isinstance(error, KeyboardInterrupt) else 6), outcome.err
    assert names(tmp_path) == []
    assert isinstance(error, KeyboardInterrupt) or ("free" in outcome.err and str(tmp_path / "out") in outcome.err)


def test_scenes_that_end_half_way_leave_nothing(tmp_path, monkeypatch):
    written = []

    def save(self, path, **options):
        if len(written) == 3:
            raise FULL_DISKS[0]
        written.append(path)
        Path(path).write_bytes(b"")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", save)
        outcome = mamoe("scenes", tmp_path / "town", "--train", "2", "--val", "1", "--height", "64", "--width", "64")
    assert outcome.code == 6 and "free" in outcome.err, outcome
    assert names(tmp_path) == []


def test_scenes_join_a_folder_whole_and_the_command_overwrites_nothing(tmp_path):
    (tmp_path / "segmenter").mkdir()
    write_scenes(tmp_path, counts={"train": 1}, height=64, width=64)
    write_scenes(tmp_path, counts={"val": 1}, height=64, width=64)
    kept = {"images", "panoptic", "segmenter", "prompts_train.csv", "prompts_val.csv", "data.yaml"}
    assert set(names(tmp_path)) == kept | {"instance_prompts_train.json", "instance_prompts_val.json"}
    before = (tmp_path / "prompts_train.csv").read_text()
    outcome = mamoe("scenes", tmp_path, "--train", "2")
    assert outcome.code == 2 and "overwritten" in outcome.err
    assert (tmp_path / "prompts_train.csv").read_text() == before


def test_a_new_base_that_ends_half_way_leaves_nothing(scenes, tmp_path, monkeypatch):
    from diffusers import AutoencoderKL

    small = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4)
    monkeypatch.setattr("mamoe.newbase.train_autoencoder", lambda *given, **options: small)
    monkeypatch.setattr("mamoe.newbase.standardise", lambda *given: (_ for _ in ()).throw(FULL_DISKS[2]))
    outcome = mamoe("new-base", scenes, tmp_path / "base")
    assert outcome.code == 6, outcome
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a Linux device")
def test_full_disks_end_with_their_exit_code_wherever_they_are_met(monkeypatch, tmp_path):
    def full(*given, **options):
        with open("/dev/full", "w") as file:
            file.write("x" * 10_000)

    monkeypatch.setattr("mamoe.demo.run.run_demo", full)
    outcome = mamoe("demo", "--out", tmp_path)
    assert outcome.code == 6 and "No space left on device" in outcome.err
