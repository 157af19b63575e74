"""Which cells there are, how long they train, and what the configuration refuses."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from mamoe.commands.benchmark import run as benchmark
from mamoe.commands.benchmark.plan import cells, steps_of_images, steps_of_time
from mamoe.commands.benchmark.results import Stopped
from mamoe.commands.benchmark.run import listed, planned, reason, run_benchmark, run_process
from mamoe.config.benchmark import parted, replaced
from mamoe.errors import ConfigError
from mamoe.scenes import Domain, write_scenes
from mamoe.storage.lock import held

METHODS = {"full": ["layout.moe=false"], "mamoe": []}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def grid(**options):
    steps = {(data, method): 7 for data in ("a", "b") for method in METHODS}
    given = {"common": ["x=1"], "steps": steps} | options
    return cells(METHODS, {"a": ["data.root=a"], "b": []}, [0, 3], **given)


def test_every_combination_once_and_a_seeds_cells_together():
    found = grid()
    assert len(found) == len({cell.key for cell in found}) == 2 * 2 * 2
    assert [cell.seed for cell in found] == [0] * 4 + [3] * 4
    assert found[0].overrides == ("x=1", "data.root=a", "layout.moe=false", "seed=0")
    assert found[0].key == "images-a-full-seed0"


def test_fingerprint_sees_all_that_a_result_depends_on():
    one, *others = grid()
    longer = grid(steps={(data, method): 8 for data in ("a", "b") for method in METHODS})[0]
    marks = [cell.fingerprint({"steps": 12}) for cell in (one, *others, longer)] + [one.fingerprint({"steps": 13})]
    assert len(set(marks)) == len(marks)
    assert grid()[0].fingerprint({"steps": 12}) == marks[0]


@pytest.mark.parametrize(
    ("images", "batch", "accumulated", "steps"), [(800, 4, 1, 200), (801, 4, 1, 201), (800, 4, 2, 100), (1, 8, 4, 1)]
)
def test_equal_pictures(images, batch, accumulated, steps):
    assert steps_of_images(images, batch, accumulated) == steps
    assert (steps - 1) * batch * accumulated < images <= steps * batch * accumulated


def test_equal_time_is_that_of_the_fastest():
    steps = steps_of_time({"slow": 100, "fast": 100, "small": 200}, {"slow": 0.4, "fast": 0.1, "small": 0.1})
    assert steps == {"slow": 25, "fast": 100, "small": 100}
    assert steps_of_time({"a": 10, "b": 10}, {"a": 100.0, "b": 0.1}) == {"a": 1, "b": 10}


def test_overrides_are_parted():
    mine, theirs = parted(["benchmark=tiny", "seeds=[0]", "+datasets.a=[]", "experiment=camvid", "data.num_workers=1"])
    assert mine == ["benchmark=tiny", "seeds=[0]", "+datasets.a=[]"]
    assert theirs == ["experiment=camvid", "data.num_workers=1"]
    assert replaced(["experiment=demo", "a=1"], theirs) == ["a=1", *theirs]
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        parted(["trainer.max_steps=5"])
    with pytest.raises(ConfigError, match="evaluate_after"):
        parted(["evaluate_after=true"])


def test_tiny_is_what_it_says(monkeypatch):
    plan = planned(["benchmark=tiny", "trainer.threads=1"])
    assert {cell.method for cell in plan.cells} == {"full", "masked_attention", "moe", "mamoe"}
    assert len(plan.cells) == 12 and {cell.steps for cell in plan.cells} == {140}
    assert all("trainer.threads=1" in cell.overrides for cell in plan.cells)
    lines = listed(plan)
    assert len(lines) == 2 + 12 and "12 cells" in lines[0] and "experiment=demo" in lines[1]


def test_tiny_sets_a_transformer_beside_the_unet_where_it_is_asked_to():
    plan = planned(["benchmark=tiny", "methods=[mamoe,mamoe_transformer]", "seeds=[0]"])
    unet, transformer = plan.cells
    assert "model=tiny_dit" in transformer.overrides and "model=tiny_dit" not in unet.overrides
    assert unet.steps == transformer.steps == 140


def test_thesis_is_the_whole_grid():
    plan = planned(["benchmark=thesis"])
    methods = ["full", "decoder", "lora", "dora", "controlnet_xs", "concat", "masked_attention"]
    assert plan.config.chosen == [*methods, "moe_2", "moe_5", "moe_10", "mamoe"]
    assert len(plan.cells) == 3 * 11
    assert plan.config.budget.images == 40 * 2975
    asked = {cell.method: " ".join(cell.overrides) for cell in plan.cells}
    assert [name for name in asked if f"method={name} " in asked[name]] == methods[:-1]


def test_everything_wrong_is_said_at_once():
    def refusal(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            planned(overrides)
        return str(caught.value)

    assert "did you mean mamoe?" in refusal("methods=[mamo]")
    assert "names one twice" in refusal("seeds=[1,1]", "methods=[mamoe]")
    assert "budget.images" in refusal("budget.images=0")
    assert "benchmark=thesis" in refusal("benchmark=thesi")
    broken = ['+method_settings.a=["layout.mo=true"]', '+method_settings.b=["ema_decay=7"]']
    both = refusal("methods=[a,b]", *broken)
    assert "a on dusk_town" in both and "b on dusk_town" in both and "ema_decay" in both
    assert "+method_settings.<key>" in refusal("method_settings={c: []}")
    assert "There is no score fidelity" in refusal("scores.names=[fidelity]")
    alike = ["~datasets.dusk_town", "+datasets={town: [], town-night: []}", "+method_settings.night-full=[]"]
    assert "one folder, town-night-full" in refusal(*alike, "methods=[full,night-full]")
    assert "scenes.domain" in refusal("scenes.domain=dusk")


def test_names_are_parts_of_folder_names():
    Path("mine/benchmark").mkdir(parents=True)
    Path("mine/benchmark/odd.yaml").write_text("# @package _global_\nmethod_settings: {../x: []}\ndatasets: {a: []}\n")
    with pytest.raises(ConfigError, match=r"parts of folder names.*\.\./x"):
        planned(["benchmark=odd"], [Path("mine")])


def test_reasons_of_an_end():
    assert reason(2, "warning\nError: no such key\n  more\n") == "no such key\n  more"
    assert "SIGKILL, often for want of memory" in reason(-9, "")
    assert reason(1, "Traceback\nKeyError: 'x'\n") == "KeyError: 'x' (exit code 1)"
    assert reason(1, "") == "it said nothing (exit code 1)"


def test_scenes_of_other_settings_are_not_taken_for_those_asked_for(monkeypatch):
    def never(folder, config_dirs):
        raise AssertionError("no cell may run")

    monkeypatch.setattr(benchmark, "run_process", never)
    write_scenes("data", domain=Domain.DUSK_TOWN, counts={"train": 2, "val": 1, "test": 1})
    words = ["methods=[mamoe]", "scenes.root=data", "scenes.val=1", "scenes.test=1"]

    def refusal(*more: str) -> str:
        with pytest.raises(ConfigError, match="data holds other scenes") as caught:
            run_benchmark([*words, *more], [], dry_run=False, say=print)
        return str(caught.value)

    assert "train has 2 pictures, wanted 3" in refusal("scenes.train=3")
    assert "is not the first broad scene of train" in refusal("scenes.train=2", "scenes.domain=broad")
    monkeypatch.setattr(benchmark, "run_process", lambda folder, config_dirs: None)
    assert run_benchmark([*words, "scenes.train=2", "seeds=[0]"], [], dry_run=False, say=print) == 1


def test_a_stopped_benchmark_reports_what_had_failed(monkeypatch):
    def run(folder, config_dirs):
        if "full" in folder.name:
            raise RuntimeError("no memory left")
        raise Stopped(75)

    monkeypatch.setattr(benchmark, "run_process", run)
    said = []
    words = ["methods=[full,mamoe]", "seeds=[0]", "out=b", "scenes=null", "~datasets.dusk_town", "+datasets.a=[]"]
    assert run_benchmark(words, [], dry_run=False, say=said.append) == 75
    assert "1 failed" in said[-1]
    with held(Path("b")), pytest.raises(ConfigError, match="Another process is at work in b"):
        run_benchmark(words, [], dry_run=False, say=said.append)
    report = Path("b/report.md").read_text()
    assert "full-seed0: no memory left" in report and "mamoe-seed0: not run yet" in report


def test_sigterm_stops_the_grid_also_where_the_cell_just_dies_of_it(tmp_path, monkeypatch):
    stub = tmp_path / "python"  # no handler, as while a cell is scored
    stub.write_text("#!/bin/sh\nexec sleep 30\n")
    stub.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(stub))
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped) as stop:
        run_process(tmp_path)
    assert stop.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
