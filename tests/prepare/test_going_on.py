"""How data sets are written: killed and gone on with, shared, linked, overwritten, split; as a whole or not at all."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from foreign import bdd100k, photo, save
from PIL import Image

from factories import mamoe
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.shares import Share, this_share
from mamoe.prepare import writer
from mamoe.prepare.check import check_folder
from mamoe.prepare.classes import table_of
from mamoe.prepare.folder import import_folder
from mamoe.prepare.importers import IMPORTERS
from mamoe.prepare.job import spelled
from mamoe.prepare.labelled import Manner
from mamoe.storage.png import encode_png
from mamoe.storage.staging import DiskFullError
from mamoe.vocabulary.taxonomy import Taxonomy

TABLE = table_of(Taxonomy.load("cityscapes"))


@pytest.fixture
def source(tmp_path):
    """Nine pictures of three videos, with the maps of road, sky and a car."""
    numbers = np.full((32, 64), 10, dtype=np.uint8)
    numbers[16:], numbers[18:26, 8:20] = 0, 13
    for i in range(9):
        name = f"video{i // 3}_{i:04}"
        photo(tmp_path / f"images/{name}.jpg", i)
        save(numbers, tmp_path / f"maps/{name}.png")
    return tmp_path


def run(source, out="out", **manner):
    return import_folder(source / "images", source / out, None, Manner(**manner), maps=source / "maps", table=TABLE)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def stopped_after(monkeypatch, count, error):
    """The write of a map fails, the count-th time."""
    calls, real = [], writer.write_panoptic

    def write(panoptic, path):
        calls.append(path.name)
        if len(calls) > count:
            raise error
        real(panoptic, path)

    monkeypatch.setattr(writer, "write_panoptic", write)
    return calls


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_what_is_done_is_not_done_again(source, monkeypatch, count):
    run(source, "whole")
    with monkeypatch.context() as patch:
        stopped_after(patch, count, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(source)
    assert not (source / "out").exists() and len(hidden(source)) == 1
    with monkeypatch.context() as patch:
        calls = stopped_after(patch, 99, None)
        run(source)
    assert len(calls) == 9 - count and not hidden(source)
    assert contents(source / "out") == contents(source / "whole")


def test_other_work_does_not_go_on_there(source, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_after(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(source)
    time.sleep(0.01)
    photo(source / "images/video0_0000.jpg", 99)  # the source is another now
    calls = stopped_after(monkeypatch, 99, None)
    run(source)
    assert len(calls) == 9 and not hidden(source)
    assert (source / "out/images/train/video0_0000.jpg").read_bytes() == (
        source / "images/video0_0000.jpg"
    ).read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("count", [0, 4, 8])
def test_a_full_disk_leaves_what_was_there(source, monkeypatch, count, overwrite):
    if overwrite:
        run(source, link=True)
    before = contents(source / "out") if overwrite else None
    stopped_after(monkeypatch, count, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DiskFullError, match="was full"):
        run(source, overwrite=overwrite)
    assert not hidden(source) and (source / "out").exists() == overwrite
    assert before is None or contents(source / "out") == before


@pytest.mark.parametrize("name", ["prompts_train.csv", "instance_prompts_train.json", "dataset.json", "data.yaml"])
def test_a_full_disk_at_the_last_files(source, monkeypatch, name):
    real = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == name and args[:1] == ("w",):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        patch.setattr(Path, "write_text", lambda path, text, **how: path.open("w", **how).write(text))
        with pytest.raises(DiskFullError):
            run(source)
    assert not (source / "out").exists() and not hidden(source)


def test_nothing_is_overwritten_unless_one_says_so(source):
    run(source)
    before = contents(source / "out")
    with pytest.raises(DatasetError, match="give --overwrite"):
        run(source)
    save(np.full((32, 64), 10, dtype=np.uint8), source / "maps/video0_0000.png")
    run(source, overwrite=True)
    after = contents(source / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert "panoptic/train/video0_0000.png" in changed and "panoptic/train/video0_0001.png" not in changed
    assert not hidden(source)


def test_only_data_sets_are_overwritten(source):
    (source / "out").mkdir()
    (source / "out/thesis.tex").write_text("years of work")
    with pytest.raises(DatasetError, match="is no data set"):
        run(source, overwrite=True)
    assert contents(source / "out") == {"thesis.tex": b"years of work"}


def test_a_dry_run_writes_nothing(source):
    summary = run(source, dry_run=True)
    assert (
        "train 9 pictures would be written" in summary.text() and not (source / "out").exists() and not hidden(source)
    )


def test_links_and_copies(source):
    run(source, "linked", link=True)
    run(source, "copied")
    linked = source / "linked/images/train/video0_0000.jpg"
    assert linked.is_symlink() and linked.resolve() == (source / "images/video0_0000.jpg").resolve()
    assert not (source / "copied/images/train/video0_0000.jpg").is_symlink()
    assert check_folder(source / "linked").problems == ()
    told = [json.loads((source / name / "dataset.json").read_text()) for name in ("linked", "copied")]
    assert told[0] == told[1]


def test_validation_takes_whole_videos(source):
    summary = run(source, val=0.3)
    assert summary.pictures == {"train": 6, "val": 3}
    names = {
        split: {p.name.split("_")[0] for p in (source / f"out/images/{split}").iterdir()} for split in ("train", "val")
    }
    assert not names["train"] & names["val"] and len(names["val"]) == 1
    with pytest.raises(ConfigError, match="leave it out"):
        IMPORTERS["bdd100k"](bdd100k(source / "bdd"), source / "two", None, Manner(val=0.1))
    with pytest.raises(ConfigError, match=r"\(0, 0\.5\]"):
        run(source, "three", val=0.9)


def test_parts_of_several_tasks_make_the_same_set(source):
    run(source, "whole")
    first, second = (run(source, share=Share(rank=rank, count=3)) for rank in (2, 0))
    assert not first.done and first.left == 6 and second.left == 3 and not (source / "out").exists()
    assert "3 pictures of others are not" in second.text()
    last = run(source, share=Share(rank=1, count=3))
    assert last.done and not hidden(source) and contents(source / "out") == contents(source / "whole")


def test_another_number_of_tasks_goes_on(source):
    run(source, share=Share(rank=0, count=3))
    assert run(source).pictures == {"train": 9} and not hidden(source)


def test_more_tasks_than_pictures(source):
    idle = run(source, share=Share(rank=10, count=11))
    assert not idle.done and idle.left == 9 and not hidden(source)
    for rank in range(9):
        last = run(source, share=Share(rank=rank, count=11))
    assert last.done
    idle = run(source, share=Share(rank=9, count=11))
    assert not idle.done and not idle.left and idle.text().endswith("another process has made it.")


def test_a_job_has_one_name_in_every_process():
    """The order of sets and the places of objects differ from process to process."""
    words = {f"class {i}" for i in range(20)}
    name = spelled((frozenset(words), {"b": 1, "a": Share()}, partial(run, out=Path("x")), np.arange(2000)))
    assert name.startswith(f"[{{{', '.join(sorted(map(repr, words)))}}}, {{'b': 1, 'a': Share(0, 1)}}, [")
    assert " at 0x" not in name and f"{__name__}.run" in name and "..." not in name
    assert spelled(frozenset({1})) != spelled(frozenset({2})) and spelled(np.arange(2000)) != spelled(
        np.arange(2000) % 1999
    )


def test_shares():
    array = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
    assert this_share({}) == Share() and this_share({"WORLD_SIZE": "1", "RANK": "0"}).alone
    assert this_share({"WORLD_SIZE": "4", "RANK": "3"}) == Share(rank=3, count=4)
    assert this_share({**array, "SLURM_ARRAY_TASK_STEP": "2"}) == Share(rank=2, count=4)
    with pytest.raises(ConfigError, match="--array=0-3"):
        this_share({**array, "SLURM_ARRAY_TASK_STEP": "3"})
    with pytest.raises(ConfigError, match="even steps"):
        this_share(array)
    work = list(range(10))
    assert sorted(one for r in range(3) for one in Share(rank=r, count=3).of(work)) == work


def test_two_at_once_do_not_do_the_same_part(source):
    pause = "import time; from mamoe.prepare import writer; writer.write_panoptic = lambda *a: time.sleep(60); "
    code = f"{pause}from mamoe.cli import app; app()"
    words = ["prepare", "import", "folder", source / "images", source / "out", "--maps", source / "maps"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words), "--classes", "cityscapes", "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(writer.__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(source.glob(".out.partial-*/images/train/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(DatasetError, match="Another process"):
            run(source)
        assert len(hidden(source)) == 1  # and the other's work is as it was
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(source)
    assert not hidden(source) and check_folder(source / "out").problems == ()


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_goes_on(source):
    """With two processes of its own; killed at once, while they start, and while they work."""
    for i in range(60):
        photo(source / f"images/more_{i:04}.jpg", i)
        shutil.copy(source / "maps/video0_0000.png", source / f"maps/more_{i:04}.png")
    run(source, "whole")
    words = ["prepare", "import", "folder", source / "images", source / "out", "--maps", source / "maps"]
    environment = {**os.environ, "PYTHONPATH": str(Path(writer.__file__).parents[2])}
    for written in (0, 1, 20):
        process = subprocess.Popen(
            [sys.executable, "-m", "mamoe.cli", *map(str, words), "--classes", "cityscapes", "--workers", "2"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(source.glob(".out.partial-*/panoptic/train/*.png"))) >= written:
                break
            time.sleep(0.01)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs(children, timeout=30)
        assert not alive and len(gone) == len(children)
        if (source / "out").exists():
            shutil.rmtree(source / "out")
    run(source)
    assert contents(source / "out") == contents(source / "whole") and not hidden(source)


def test_links_out_of_the_source_are_refused(source):
    secret = source / "secret.jpg"
    shutil.copy(source / "images/video0_0000.jpg", secret)
    (source / "images/video0_0000.jpg").unlink()
    (source / "images/video0_0000.jpg").symlink_to(secret)
    with pytest.raises(DatasetError, match="is a link out of"):
        run(source)
    assert run(source, follow_links=True).pictures == {"train": 9}


def test_the_command_says_how_it_is_stopped_and_gone_on_with(source, monkeypatch):
    stopped_after(monkeypatch, 3, KeyboardInterrupt())
    words = ("prepare", "import", "folder", source / "images", source / "out", "--maps", source / "maps")
    outcome = mamoe(*words, "--classes", "cityscapes", "--workers", "1")
    assert outcome.code == 130 and "the same command goes on" in outcome.err
    monkeypatch.undo()
    outcome = mamoe(*words, "--classes", "cityscapes", "--link")
    assert outcome.code == 0 and "9 pictures with 9 instances" in outcome.out, outcome.err


@pytest.mark.parametrize("seed", range(4))
def test_our_pngs_are_read_by_everybody(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (int(rng.integers(1, 50)), int(rng.integers(1, 50)), 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(rgb))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "RGB" and (np.array(picture) == rgb).all()
