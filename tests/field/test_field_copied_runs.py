"""Runs copied with links followed (`cp -rL`, some archives): latest and best are folders."""

import logging
import shutil
from pathlib import Path

from mamoe.runs import checkpoint as checkpointing
from mamoe.runs.folder import new_run_dir
from mamoe.runs.lookup import find_checkpoint

# Copied with links followed (`cp -rL`, some archives): latest and best are folders.


def checkpoint_of(run: Path, step: int, text: str) -> Path:
    def write(folder: Path) -> None:
        (folder / "w.bin").write_text(text)
        (folder / "recipe.json").write_text("{}")

    return checkpointing.write_checkpoint(run, step, write)


def contents(root: Path) -> dict[str, str]:
    return {path.name: (path / "w.bin").read_text() for path in sorted(root.iterdir())}


def test_a_run_copied_with_links_followed_goes_on(tmp_path, caplog):
    for step in (2, 4):
        checkpointing.link(checkpoint_of(tmp_path / "run", step, str(step)), "best" if step == 2 else "latest")
    copy = tmp_path / "copy"
    for way in ("write", "find", "prune first"):
        shutil.copytree(tmp_path / "run", copy, symlinks=False)
        root = copy / "checkpoints"
        shutil.copytree(root / "latest", root / ".latest.partial")
        assert not (root / "latest").is_symlink()
        assert find_checkpoint(copy) == find_checkpoint(root / "latest") == root / "step-00000004"
        assert find_checkpoint(copy, "best") == root / "step-00000002"
        if way == "find":
            assert checkpointing.sound_checkpoint(root / "latest") == root / "step-00000004"
            assert checkpointing.sound_checkpoint(root / "best") == root / "step-00000002"
        with caplog.at_level(logging.WARNING):
            checkpoint_of(copy, 6, "6")
            checkpointing.prune(copy, 2)
        assert way != "write" or "it is a link again" in caplog.text
        assert contents(root) == {
            "best": "2",
            "latest": "6",
            "step-00000002": "2",
            "step-00000004": "4",
            "step-00000006": "6",
        }
        assert (root / "latest").is_symlink() and (root / "best").is_symlink()
        shutil.rmtree(copy)


def test_what_only_a_copied_link_holds_is_never_deleted(tmp_path, caplog):
    root = tmp_path / "checkpoints"
    for step in (2, 4):
        checkpointing.link(checkpoint_of(tmp_path, step, str(step)), "best" if step == 2 else "latest")
    for name, step in (("best", 2), ("latest", 4)):
        (root / name).unlink()
        (root / f"step-{step:08d}").rename(root / name)
    (root / "latest" / "w.bin").write_text("damaged")
    with caplog.at_level(logging.WARNING):
        assert checkpointing.sound_checkpoint(tmp_path) == root / "step-00000002"
    assert contents(root) == {"best": "2", "step-00000002": "2", "kept-latest-1": "damaged"}
    assert "is kept as kept-latest-1" in caplog.text and "it is step-00000002 now" in caplog.text


def test_runs_copied_with_links_followed_stay(tmp_path, caplog):
    first = new_run_dir(tmp_path, "a")
    (first / "config.yaml").write_text("first")
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=False)
    (tmp_path / "b/latest/config.yaml").write_text("trained on since")
    with caplog.at_level(logging.WARNING):
        second = new_run_dir(tmp_path, "b")
    assert (tmp_path / "b/latest").resolve() == second and len(list((tmp_path / "b").iterdir())) == 4
    kept = {p.read_text() for p in (tmp_path / "b").glob("*/config.yaml")}
    assert kept == {"first", "trained on since"} and "it is kept as" in caplog.text
