"""What a training asks of the machine."""

from pathlib import Path

from mamoe.prepare.doctor import needs
from mamoe.prepare.doctor.needs import Need, Weights, checkpoint_needs, machine_notes

ALL = Weights(method="full", experts=1, stored=100, trained=100)


def test_room_for_checkpoints():
    assert checkpoint_needs(ALL).bytes == 4 * 4 * (100 + 100 + 200)  # three and the one being written
    assert checkpoint_needs(ALL, average=False, kept=1).bytes == 4 * 2 * (100 + 200)
    assert checkpoint_needs(ALL, kept=5, resumable=1).bytes == 4 * (6 * 200 + 2 * 200)
    adapter = Weights(method="lora", experts=3, stored=7, trained=7)
    need = checkpoint_needs(adapter)
    assert need.bytes == 4 * 4 * 28 and need.how.endswith("method=lora with 3 experts")


def test_a_disk_that_is_too_small_and_few_open_files_are_said(tmp_path, monkeypatch):
    little, much = Need(what="latents", bytes=1, how=""), Need(what="checkpoints", bytes=1 << 60, how="")
    monkeypatch.setattr(needs, "_most_open_files", lambda: 4096)
    later = tmp_path / "runs/not/yet/there"
    assert machine_notes([little], later) == [] and not (tmp_path / "runs").exists()
    (line,) = machine_notes([little, much], later, "runs")
    assert line.startswith("latents and checkpoints need about 1073741824.0 GiB") and f"{later} is" in line
    assert line.endswith("name another disk by runs")
    monkeypatch.setattr(needs, "_most_open_files", lambda: 256)
    assert "256 files" in machine_notes([little], Path("/"))[0]
