"""Small files of a run that something else wrote over: each is named, with what to do, or is not needed."""

import json
import shutil

import pytest

from factories import mamoe
from mamoe.assemble.record import write_start, write_told
from mamoe.errors import ConfigError
from mamoe.runs.folder import read_config, read_overrides
from mamoe.runs.home import Home
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.training.loop.metrics import read_rows

BINARY = b"\x00\xff\xfe"


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run", symlinks=True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("overrides.txt", BINARY, "one setting a line"),
        ("metrics.csv", BINARY, "Move it away"),
        ("metrics.csv", b"a,b\n1,2\n", "do not begin with the number of a step"),
    ],
)
def test_what_cannot_be_gone_on_with_is_named(run, name, content, says):
    (run / name).write_bytes(content)
    outcome = mamoe("train", f"resume={run}", "trainer.max_steps=5")
    assert outcome.code == 2 and f"{run / name}" in outcome.err and says in " ".join(outcome.err.split()), outcome.err
    assert (run / name).read_bytes() == content


@pytest.mark.parametrize("content", [BINARY, b"", b"[]", b"3", b'{"run": 3, "working_directory": null}'])
def test_a_note_that_says_nothing_is_none(run, content):
    (run / "dataset.json").write_bytes(content)
    (run / "config.yaml").write_bytes(content)
    assert Home.of(run).run is None
    assert read_config(run) in (None, {"run": 3, "working_directory": None})
    outcome = mamoe("evaluate", run, "--steps", "1")
    assert outcome.code == 2 and "Traceback" not in outcome.err


def test_a_config_that_cannot_be_read_is_kept_beside_the_new_one(tmp_path, caplog):
    write_start(tmp_path, config={"runs": "r"}, overrides=["a=1"], dataset={})
    (tmp_path / "config.yaml").write_bytes(BINARY)
    write_told(tmp_path, step=2, config={"runs": "s"}, overrides=["a=1"])
    assert (tmp_path / "config-unreadable.yaml").read_bytes() == BINARY and read_config(tmp_path) == {"runs": "s"}
    assert "could not be read" in caplog.text and "config-unreadable.yaml" in caplog.text


def test_a_checkpoint_with_a_damaged_recipe_is_passed_over_as_any_damaged_one(run, caplog):
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    (newest / "recipe.json").write_text("{")
    outcome = mamoe("train", f"resume={run}", "trainer.max_steps=5", "callbacks.samples=null")
    assert outcome.code == 0 and "trying the one before" in outcome.err + caplog.text
    assert (run / "checkpoints/step-00000005").is_dir()


@pytest.mark.parametrize("layout", ["nonsense", "[3]"])
def test_a_pipeline_whose_layout_is_none_is_refused(run, tmp_path, layout):
    LayoutPipeline.from_pretrained(run).save_pretrained(tmp_path / "pipe")
    index = tmp_path / "pipe/model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "layout": layout}))
    with pytest.raises(ConfigError, match=r"layout in model_index\.json"):
        LayoutPipeline.from_pretrained(tmp_path / "pipe")


def test_half_a_row_is_left_out_as_ever(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,0.5\n2")
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["1"]
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "overrides.txt").write_text("a=1\n")
    assert read_overrides(tmp_path) == ["a=1"]
    with pytest.raises(ConfigError, match="Cannot read"):
        read_overrides(tmp_path / "nowhere")


def test_a_data_set_that_is_nowhere_is_said_before_its_classes_are_guessed(tmp_path):
    """`experiment=demo` asks for a grouping that the guessed classes lack: that was the message."""
    outcome = mamoe("train", "data=folder", f"data.root={tmp_path / 'nowhere'}", "experiment=demo")
    assert outcome.code == 2 and f"There is no folder data.root={tmp_path / 'nowhere'}" in outcome.out + outcome.err
