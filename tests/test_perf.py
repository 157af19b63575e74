"""The scripts that measure run: their logic on a small scale, not their figures."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from apart import mamoe_apart, script_apart

PERF = Path(__file__).parents[1] / "perf"


@pytest.mark.filterwarnings("ignore")
def test_pictures_are_timed_beside_the_stock_pipelines(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(PERF))
    monkeypatch.setattr(sys, "argv", ["drawing.py", "--quick", "--steps", "2", "--rounds", "1"])
    runpy.run_path(str(PERF / "drawing.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["time_ratio"] > 0 and found["memory_ratio"] > 0 and found["weights_ratio"] > 1


@pytest.mark.filterwarnings("ignore")
def test_a_step_orders_fewer_kernels_than_a_stock_one(monkeypatch, capsys):
    """By count, which is exact, so that the host's work does not creep up."""
    monkeypatch.syspath_prepend(str(PERF))
    monkeypatch.setattr(sys, "argv", ["host.py", "--quick"])
    runpy.run_path(str(PERF / "host.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    trained, step = found["train"]["operators"], found["draw"]["step"]["operators"]
    # Found 0.921, 0.934 and 0.907.
    assert trained["ratio"] <= 0.94 and trained["conditioned_ratio"] <= 0.95 and step["ratio"] <= 0.92
    loop = found["loop"]["operators"]
    assert loop["ours"] - loop["stock"] <= 180  # found 167: what the training loop does besides
    assert found["draw"]["picture"]["operators"]["ours"] <= 1600  # which a picture takes once, most of them for its map


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_gpu_script_measures_each_part_without_a_gpu(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(PERF))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick"])
    runpy.run_path(str(PERF / "gpu.py"), run_name="__main__")
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["quick"] and set(found) >= {"step", "transformer", "train", "draw", "save", "compiled"}
    assert found["train"]["loop"]["ms"] > 0 and found["draw"]["pictures_1"]["wall_ratio"] > 0
    assert set(found["train"]["pieces"]) == {"conditioning", "clipping", "optimizer", "average"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("preset", "network", "method"), [("24", "sd21", "full"), ("12", "sdxl", "lora_experts")])
def test_a_preset_is_trained_with_as_its_training_would(monkeypatch, capsys, preset, network, method):
    monkeypatch.syspath_prepend(str(PERF))
    words = ["--quick", "--one", "--only", preset, "--networks", network, "--steps", "4"]
    monkeypatch.setattr(sys, "argv", ["presets.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PERF / "presets.py"), run_name="__main__")
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["images_per_s"] > 0 and found["method"] == method and found["batch"] == "4 x 2"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_presets_are_made_side_by_side_and_one_that_takes_too_long_is_given_up(monkeypatch, capsys, tmp_path):
    """The first two are forked, for the time their imports take; the one that is given up is started as it is."""
    as_shells_do = subprocess.run

    def forked(words, **how):
        if how["timeout"] < 1:
            return as_shells_do(words, **how)
        assert words[0] == sys.executable and how["env"]["OMP_WAIT_POLICY"] == "PASSIVE"
        ended = script_apart(words[1:], tmp_path / words[words.index("--one") :][4])
        return subprocess.CompletedProcess(words, ended.code, ended.out, ended.err)

    monkeypatch.setattr(subprocess, "run", forked)
    monkeypatch.syspath_prepend(str(PERF))
    words = [str(PERF / "presets.py"), "--quick", "--at-once", "2", "--only", "12", "--steps", "4"]

    def run(*more: str) -> tuple[object, dict[str, dict[str, object]]]:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(words[0], run_name="__main__")
        return ended.value.code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    code, found = run()
    assert code == 0 and set(found) == {"sd21_12", "sdxl_12"} and all(one["fits"] for one in found.values())
    code, found = run("--timeout", "0.1", "--networks", "sd21")
    assert code == 1 and found == {"sd21_12": {"fits": False, "problem": "not done after 0.1 s"}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_training_is_timed_from_its_start_to_its_end(monkeypatch, capsys, tmp_path):
    """The training whose start is taken apart is started as it is; what comes before it, forked."""
    as_shells_do = subprocess.run

    def run(words, **how):
        if "name=warm" in words:
            return as_shells_do(words, **how)
        assert words[:3] == [sys.executable, "-m", "mamoe"]
        with monkeypatch.context() as at_its_start:
            for name, value in how["env"].items():
                at_its_start.setenv(name, value)
            ended = mamoe_apart(words[3:], tmp_path / "said")
        return subprocess.CompletedProcess(words, ended.code)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.syspath_prepend(str(PERF))
    monkeypatch.setattr(sys, "argv", ["start.py", "--quick", "--steps", "6", "--save", "4"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PERF / "start.py"), run_name="__main__")
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["first_step"] == pytest.approx(sum(found["start"].values()), abs=0.01)
    assert found["cold"] > 0 and found["step"] > 0 and found["written"] > 0
    assert found["room_was_ready"] and found["end"] > found["saved"] > 0


def reckoned(monkeypatch, capsys, *words: str) -> dict[str, dict[str, float]]:
    monkeypatch.syspath_prepend(str(PERF))
    monkeypatch.setattr(sys, "argv", ["reckon.py", *words])
    runpy.run_path(str(PERF / "reckon.py"), run_name="__main__")
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_memory_of_presets_is_reckoned_without_any(monkeypatch, capsys):
    words = ["--quick", "--only", "12", "--networks", "sdxl"]
    half = reckoned(monkeypatch, capsys, *words)["sdxl_12"]
    whole = reckoned(monkeypatch, capsys, *words, "--words", "trainer.precision=32-true")["sdxl_12"]
    assert 0.5 <= half["weights"] / whole["weights"] < 0.8  # what trains, and norms, are float32 in both
    assert half["gradients"] == whole["gradients"] > 0 and half["moments_and_average"] > 0
    parts = ("weights", "gradients", "moments_and_average", "between_layers")
    assert half["peak"] == pytest.approx(sum(half[part] for part in parts), abs=0.003)


def test_pictures_of_broken_cells_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        reckoned(monkeypatch, capsys, "--side", "500")
    assert "a multiple of 64 pixels wide and high, got 500" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_reckoned_is_what_a_gpu_held(monkeypatch, capsys):
    found = reckoned(monkeypatch, capsys, "--only", "80", "--networks", "sd21")
    assert found["sd21_80"]["peak"] == pytest.approx(37.5, rel=0.02)  # docs/gpu.md: of an H200
