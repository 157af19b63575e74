"""A save that is cut short anywhere leaves a run that loads."""

import shutil

import pytest

from mamoe.runs.checkpoint import OPTIMIZER, Storage, checkpoints_of, link, prune, sound_checkpoint, write_checkpoint
from mamoe.runs.manifest import dropped_from, problems_of


class PowerCut(BaseException):
    """Nothing runs after it: no clean-up either."""


class Failing(Storage):
    """Fails at the n-th operation, before it or half-way: with an error, or a power cut, after which nothing works."""

    def __init__(self, at=None, error=PowerCut, half=False):
        self.at, self.error, self.half, self.done = at, error, half, []

    def _act(self, name, path, act, half=lambda: None):
        if self.error is PowerCut and self.at is not None and len(self.done) > self.at:
            raise PowerCut
        self.done.append(f"{name} {path.name}")
        if len(self.done) - 1 == self.at:
            if self.half:
                half()
            raise self.error("injected")
        act()

    def write(self, path, text):
        def half():
            path.write_text(text[: len(text) // 2])

        self._act("write", path, lambda: Storage.write(self, path, text), half)

    def flush(self, path):
        self._act("flush", path, lambda: None)  # the disk's own speed is not what is tested

    def rename(self, source, target):
        self._act("rename", target, lambda: Storage.rename(self, source, target))

    def drop(self, file):
        self._act("drop", file, lambda: Storage.drop(self, file))

    def remove(self, folder):
        def half():
            next(path for path in folder.rglob("*") if path.is_file()).unlink()

        self._act("remove", folder, lambda: Storage.remove(self, folder), half)


def save(run, step, storage, text="weights"):
    """What a training does: four files, the checkpoint, the best link, pruning and slimming."""

    def fill(folder):
        (folder / "unet").mkdir()
        storage.write(folder / "unet/w.bin", f"{text} of {step}")
        (folder / OPTIMIZER).parent.mkdir()
        storage.write(folder / OPTIMIZER, "moments")
        storage.write(folder / "trainer.json", "{}")
        storage.write(folder / "recipe.json", f"{step}")

    link(write_checkpoint(run, step, fill, storage), "best", storage)
    prune(run, 3, storage, full=2)


@pytest.mark.parametrize("step", [4, 2])  # the next one, or one again as after resuming from the first
def test_every_fault_of_a_save_leaves_a_sound_newest_checkpoint(tmp_path, step, caplog):
    caplog.set_level("ERROR")
    before = tmp_path / "before"
    for earlier in (1, 2, 3):
        save(before, earlier, Storage())
    dry = Failing()
    save(shutil.copytree(before, tmp_path / "dry", symlinks=True), step, dry)
    assert {name.split()[0] for name in dry.done} >= {"write", "flush", "rename", "remove"} and len(dry.done) > 15
    assert step != 4 or any(name.startswith("drop") for name in dry.done)
    kinds = [(PowerCut, False), (PowerCut, True), (OSError, False), (OSError, True)]
    for at, name in enumerate(dry.done):
        for error, half in kinds:
            if half and name.split()[0] not in ("write", "remove"):
                continue  # the others cannot be done by half
            run = shutil.copytree(before, tmp_path / f"{at}-{error.__name__}-{half}", symlinks=True)
            with pytest.raises(error):
                save(run, step, Failing(at, error, half), "new")
            # Nothing half-written or half-deleted has a checkpoint's name, and the newest loads.
            assert not [problem for path in checkpoints_of(run) for problem in problems_of(path)], name
            found = sound_checkpoint(run)
            is_new = (found / "unet/w.bin").read_text() == f"new of {step}"
            assert is_new or found.name in ("step-00000003", "step-00000002"), name
            assert is_new == (at > dry.done.index(f"rename step-0000000{step}")), name
            # The same save once more, and nothing of the fault is left.
            save(run, step, Storage(), "newer")
            assert (sound_checkpoint(run) / "unet/w.bin").read_text() == f"newer of {step}"
            left = {path.name for path in (run / "checkpoints").iterdir()} - {"abandoned-step-00000003"}
            assert left == {"latest", "best", *(path.name for path in checkpoints_of(run))}, name
            assert len(checkpoints_of(run)) >= 2
            whole = [path for path in checkpoints_of(run) if not dropped_from(path)]
            # A branch from an older checkpoint finds those before it slimmed already.
            assert whole == checkpoints_of(run)[-2 if step == 4 else -1 :], name
            assert all((path / OPTIMIZER).is_file() != bool(dropped_from(path)) for path in checkpoints_of(run)), name


def test_a_branch_that_was_left_is_neither_lost_nor_mixed_up(tmp_path, caplog):
    for step in (5, 10, 15):
        save(tmp_path, step, Storage())
    save(tmp_path, 12, Storage())  # resumed from 10
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step-00000005", "step-00000010", "step-00000012"]
    kept = tmp_path / "checkpoints/abandoned-step-00000015"
    assert problems_of(kept) == [] and "branch of this run that was left" in caplog.text
    save(tmp_path, 20, Storage())
    (tmp_path / "checkpoints/step-00000020/recipe.json").write_text("damaged")
    assert sound_checkpoint(tmp_path).name == "step-00000012"
