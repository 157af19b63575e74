"""`mamoe evaluate` on folders and on a run, from the command to the table on disk."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from PIL import Image

from factories import mamoe
from mamoe.commands.evaluate import Asked, evaluate_run
from mamoe.data.encoded import content_of
from mamoe.evaluation import run as module
from mamoe.evaluation.protocol import Generation
from mamoe.evaluation.run import SCORES, folder_row
from mamoe.evaluation.table import Row, Table
from mamoe.machine.processes import Processes
from mamoe.sampling.filling import fill
from mamoe.scenes import Domain, write_scenes
from mamoe.vocabulary.drawing import Drawing

PIXELS = ("--extractor", "pixels")


@pytest.fixture(scope="module")
def towns(tmp_path_factory) -> Path:
    """Enough drawn scenes for every score."""
    folder = tmp_path_factory.mktemp("towns") / "data"
    write_scenes(folder, domain=Domain.DUSK_TOWN, counts={"train": 40, "val": 32, "test": 32}, height=64, width=64)
    return folder / "images"


def table_in(folder: Path) -> dict[str, Row]:
    return {row.label: row for row in Table.from_dict(json.loads((folder / "metrics.json").read_text())).rows}


def value(row: Row, name: str) -> float:
    score = row.score(name)
    assert score is not None and score.value is not None, score
    return score.value


def test_folder_with_every_number_and_both_floors(towns, base_model, tmp_path):
    out = tmp_path / "out"
    words = ("--against", towns / "test", "--train", towns / "train", "--autoencoder", base_model, "--out", out)
    outcome = mamoe("evaluate", towns / "val", *words, *PIXELS)
    assert outcome.code == 0, outcome.err
    rows = table_in(out)
    assert list(rows) == ["generated", "real (train)", "autoencoder"]
    for row in rows.values():
        assert len(row.scores) == len(SCORES) + 1  # copying is two
        assert all(score.value is not None and score.interval is not None and score.n == 32 for score in row.scores)
    assert value(rows["generated"], "FD-pixels") < value(rows["autoencoder"], "FD-pixels")  # of random weights
    assert value(rows["real (train)"], "copy rate-pixels") == 1 > value(rows["generated"], "copy rate-pixels")
    assert (out / "copies-generated-pixels.png").exists() and not (out / "copies-autoencoder-pixels.png").exists()
    assert (out / "table.md").read_text() in outcome.out
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 3 * (len(SCORES) + 1)


def test_identical_folders_and_absent_floors(towns, tmp_path):
    out = tmp_path / "out"
    outcome = mamoe(
        "evaluate", towns / "test", "--against", towns / "test", "--scores", "fid,cmmd,copying", "--out", out, *PIXELS
    )
    assert outcome.code == 0, outcome.err
    rows = table_in(out)
    assert value(rows["generated"], "FD-pixels") < 1e-9 and value(rows["generated"], "MMD-pixels") < 1e-9
    assert rows["generated"].score("copy rate-pixels").missing == "the training pictures are not given"
    assert rows["real (train)"].score("FD-pixels").missing == "the training pictures are not given"
    assert rows["autoencoder"].score("FD-pixels").missing == "the autoencoder is not given"


def test_few_pictures_say_what_is_missing(towns, tmp_path):
    out = tmp_path / "out"
    outcome = mamoe("evaluate", towns / "val", "--against", towns / "test", "--images", 4, "--out", out, *PIXELS)
    assert outcome.code == 0, outcome.err
    row = table_in(out)["generated"]
    assert "wants 6 pictures" in row.score("density-pixels").missing and row.score("FD-pixels").n == 4


def test_sampled_folders_bring_their_settings(towns, tmp_path):
    folder, out = tmp_path / "sampled", tmp_path / "out"
    shutil.copytree(towns / "val", folder)
    Image.new("RGB", (300, 200)).save(folder / "contact_sheet.png")
    pictures = [path for path in folder.iterdir() if path.name != "contact_sheet.png"]
    for path in pictures:
        path.with_suffix(".json").write_text(json.dumps({"steps": 20, "guidance_scale": 3.0, "scheduler": "DDIM"}))
    words = ("evaluate", folder, "--against", towns / "test", "--scores", "kid", "--out", out, *PIXELS)
    assert mamoe(*words).code == 0
    score = table_in(out)["generated"].score("KD-pixels")
    how = score.protocol.generation
    assert (how.steps, how.guidance, how.sampler, score.n) == (20, 3.0, "DDIM", 32)
    pictures[0].with_suffix(".json").unlink()
    outcome = mamoe(*words)
    assert outcome.code == 3 and "1 of 32 pictures have no record" in outcome.err
    pictures[0].with_suffix(".json").write_text("{")
    assert "Cannot read the record" in mamoe(*words).err
    pictures[0].with_suffix(".json").write_text(json.dumps({"steps": 50}))
    assert "say different things" in mamoe(*words).err


def test_mistakes_end_in_one_message(towns, tmp_path):
    def refusal(*words) -> str:
        outcome = mamoe("evaluate", *words, "--out", tmp_path / "out")
        assert outcome.code in (2, 3) and "Traceback" not in outcome.err
        return outcome.err

    assert "--against FOLDER" in refusal(towns / "val", *PIXELS)
    assert "There is no score fidelity" in refusal(
        towns / "val", "--against", towns / "test", "--scores", "fidelity", *PIXELS
    )
    assert "There is no extractor" in refusal(towns / "val", "--against", towns / "test", "--extractor", "resnet")
    assert "holds no pictures" in refusal(tmp_path, "--against", towns / "test", *PIXELS)
    Image.new("RGB", (30, 20)).save(tmp_path / "odd.png")
    assert "reference: 64x64 (32 pictures)" in refusal(tmp_path, "--against", towns / "test", *PIXELS)
    sized = mamoe(
        "evaluate", tmp_path, "--against", towns / "test", "--size", 16, 24, "--out", tmp_path / "out", *PIXELS
    )
    assert sized.code == 0 and "n/a (wants" in sized.out


@pytest.fixture(scope="module")
def evaluated_run(finished_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    outcome = mamoe("evaluate", finished_run, "--steps", 2, "--out", out, "--cache", out / "features", *PIXELS)
    assert outcome.code == 0, outcome.err
    return out


def asked(out: Path) -> Asked:
    return Asked(against=None, extractors=("pixels",), out=out, cache=out / "features")


def test_run_in_all_modes(evaluated_run):
    rows = table_in(evaluated_run)
    assert list(rows) == ["cond", "uncond", "cfg", "real (train)", "autoencoder", "real"]
    guidance = [
        row.scores[0].protocol.generation.guidance for row in rows.values() if row.scores[0].protocol.generation
    ]
    assert guidance == [1.0, 0.0, 4.0]
    assert value(rows["cfg"], "FD-pixels") > 0
    assert len(list((evaluated_run / "cfg").glob("*.png"))) == 2


def test_killed_half_way_it_goes_on(evaluated_run, finished_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(evaluated_run, out)
    kept, lost = sorted((out / "cfg").glob("*.png"))
    stamp, pixels = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (out / "metrics.json").unlink()
    shutil.rmtree(out / "features")
    table, _ = evaluate_run(finished_run, asked(out), Drawing(steps=2))
    assert kept.stat().st_mtime_ns == stamp and lost.read_bytes() == pixels
    assert table is not None and table.json() == (evaluated_run / "metrics.json").read_text()


def test_every_picture_says_how_it_was_drawn(evaluated_run, tmp_path):
    for mode, guidance in (("cond", 1.0), ("uncond", 0.0), ("cfg", 4.0)):
        paths = sorted((evaluated_run / mode).glob("*.png"))
        for path in paths:
            record = json.loads(path.with_suffix(".json").read_text())
            assert (record["mode"], record["steps"], record["guidance_scale"]) == (mode, 2, guidance)
            assert record["panoptic_hash"] == content_of(Path(record["panoptic"]))
        # As an earlier version left it: about.json alone, and then half of the pictures with records.
        old = tmp_path / mode
        shutil.copytree(evaluated_run / mode, old)
        wanted = Generation(mode=mode, sampler="DDIMScheduler", steps=2, guidance=guidance)
        assert folder_row(old).generation == wanted
        for path in paths:
            (old / path.name).with_suffix(".json").unlink()
            assert folder_row(old).generation == wanted


def test_pictures_of_other_settings_are_not_scored(evaluated_run, finished_run):
    outcome = mamoe("evaluate", finished_run, "--steps", 3, "--out", evaluated_run, *PIXELS)
    assert outcome.code == 2 and "made otherwise: steps was" in outcome.err
    assert "leave out --size" in mamoe("evaluate", finished_run, "--size", 64, 64, *PIXELS).err
    assert "There is no mode conditional" in mamoe("evaluate", finished_run, "--modes", "conditional", *PIXELS).err
    assert "There are: best, latest, step-" in mamoe("evaluate", finished_run, "--checkpoint", "99", *PIXELS).err


def test_two_processes_fill_one_folder_once(tmp_path, monkeypatch):
    meeting, made = Barrier(2), []
    monkeypatch.setattr(Processes, "wait", lambda self: meeting.wait(60))

    def make(batch):
        made.append(tuple(batch))
        return [Image.new("RGB", (4, 4), (i, 0, 0)) for i in batch]

    def run(rank):
        names = [f"{i}.png" for i in range(5)]
        batches = [[0, 1], [2, 3], [4]]
        return fill(tmp_path / "p", names, batches, make, about={"a": 1}, processes=Processes(rank=rank, count=2))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, (0, 1))
    assert first == second and sorted(made) == [(0, 1), (2, 3), (4,)]
    assert [Image.open(path).getpixel((0, 0))[0] for path in first] == [0, 1, 2, 3, 4]


def test_every_score_is_known_to_the_command():
    assert set(SCORES) == {
        *("fid", "fid-infinity", "kid", "cmmd", "precision", "recall", "density", "coverage"),
        "copying",
    }
    assert module.METRICS == "metrics.json"
