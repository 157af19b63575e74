"""What an earlier version left on a disk loads, resumes, samples and evaluates as it did; see goldens.py.

What is read must be equal to the bit. What is computed must be too, where this machine rounds as the one that made the
files, which is found out by the libraries alone; elsewhere it must be close.
"""

import json
import re
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import goldens
from factories import mamoe
from goldens import (
    ARRAYS,
    BENCHMARK,
    DISK,
    HERE,
    JSON,
    KILLED,
    LORA_FILES,
    MANIFEST,
    PIPELINES,
    STOPPED,
    WHOLE,
    checkpoint_in,
    closed,
    colour_hits,
    digest,
    done,
    drawn,
    files_in,
    folder_scores,
    loaded,
    lora_file,
    pixels_in,
    placed,
    run_in,
    scores_in,
    summary,
    tensors_in,
    weights_of,
    without_versions,
)

RECORDS, NUMBERS = json.loads(JSON.read_text(encoding="utf-8")), load_file(ARRAYS)
# Kernels for AVX2 and for SSE4 differ from those for AVX-512 by 2e-6, 4e-6, 2e-9 and 6e-8.
ATOL = {"latents": 5e-5, "picture": 5e-5, "weights": 1e-6, "end": 2e-6}
FEATURES = "runs/cache/features"
END = f"checkpoints/step-{WHOLE:08d}"
UNTIL_STOPPED = 1 + 3 * 2  # lines of metrics.csv: names, and two losses in steps 0, 2 and 4
MERGED = "lora"  # its weights are computed when it is loaded


@pytest.fixture(autouse=True)
def one_thread():
    """As the files were made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The disk in place. Look, do not touch."""
    return placed(tmp_path_factory.mktemp("golden").resolve() / "kept")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The disk in place, and the working directory on it."""
    folder = placed(tmp_path.resolve() / "disk")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def rounds_alike(kept) -> bool:
    torch.set_num_threads(1)
    return goldens.arithmetic(kept) == RECORDS["arithmetic"]


def assert_close(found: torch.Tensor, key: str) -> None:
    torch.testing.assert_close(found, NUMBERS[key], atol=ATOL[key.partition("/")[0]], rtol=0)


def test_the_files_know_no_machine_and_hold_no_pickle():
    files = [path for path in DISK.rglob("*") if path.is_file()]
    assert files and {path.suffix for path in files} == {*".safetensors .json .yaml .txt .csv .md .png".split()}
    texts = [path for path in files if path.suffix not in (".safetensors", ".png")]
    found = [path for path in texts if re.search(r"(?<![\w@.)}])/\w+/", path.read_text(encoding="utf-8"))]
    assert not found
    assert sum(path.stat().st_size for path in files) < 1.1e6
    assert len([path for path in texts if HERE in path.read_text(encoding="utf-8")]) > 5


@pytest.mark.parametrize("name", PIPELINES)
def test_what_was_learned_is_loaded_and_draws_the_same(name, kept, rounds_alike):
    pipe = loaded(kept, name)
    weights = weights_of(pipe)
    if name != MERGED or rounds_alike:
        assert digest(weights) == RECORDS["weights"][name]
    assert_close(summary(weights), f"weights/{name}")
    for what, value in drawn(pipe, kept).items():
        assert_close(value, f"{what}/{name}")
        if rounds_alike:
            assert digest({what: value}) == RECORDS["drawn"][name][what]


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, Path]:
    """The killed runs, each gone on with to its end. Look, do not touch."""
    folder = placed(tmp_path_factory.mktemp("golden").resolve() / "gone_on")
    torch.set_num_threads(1)
    with chdir(folder):
        for name in KILLED:
            done("train", f"resume=runs/{name}/latest")
    return {name: run_in(folder, name) for name in KILLED}


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_goes_on_to_the_weights_it_would_have_had(name, ends, rounds_alike):
    end = tensors_in(ends[name] / END)
    assert_close(summary(end), f"end/{name}")
    if rounds_alike:
        assert digest(end) == RECORDS["ends"][name]
    rows, before = ((run / "metrics.csv").read_text().splitlines() for run in (ends[name], run_in(DISK, name)))
    assert len(rows) == len(before) and rows[:UNTIL_STOPPED] == before[:UNTIL_STOPPED]


def test_a_run_from_before_some_things_were_noted_goes_on_to_the_same_bits(here, ends):
    old = checkpoint_in(here, "mamoe", STOPPED)
    forget(old / "recipe.json", ["condition"], ["layout", "strength"], ["layout", "encoder_padding"])
    forget(old / "trainer/state.json", *(["counters", key] for key in ("loss_scale", "skipped", "buckets", "scores")))
    done("train", f"resume={old}")
    assert digest(tensors_in(run_in(here, "mamoe") / END)) == digest(tensors_in(ends["mamoe"] / END))


def forget(file: Path, *keys: list[str]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    for *sections, key in keys:
        place = content
        for section in sections:
            place = place[section]
        del place[key]
    file.write_text(json.dumps(content), encoding="utf-8")
    closed(next(parent for parent in file.parents if (parent / MANIFEST).exists()) / MANIFEST)


def test_the_export_is_made_again(here):
    done(*goldens.exported(here, here / "again"))
    for path in (here / "exported").rglob("*.safetensors"):
        assert digest(load_file(path)) == digest(load_file(here / "again" / path.relative_to(here / "exported")))
    index = [json.loads((here / name / "model_index.json").read_text()) for name in ("exported", "again")]
    # Then the folder named our UNet; now it names the stock one, so that diffusers reads it alone. Both are read.
    assert [one.pop("unet")[1] for one in index] == ["MaMoEUNet2DConditionModel", "UNet2DConditionModel"]
    assert index[1].pop("text_encoder_3") == index[1].pop("tokenizer_3") == [None, None]  # not there in its family
    for one in index:
        del one["_diffusers_version"]
    assert index[0] == index[1]


@pytest.mark.parametrize("form", LORA_FILES)
def test_lora_files_have_the_same_names_and_numbers(form, kept, tmp_path):
    assert digest(lora_file(kept, form, tmp_path / form)) == RECORDS["lora files"][form]


def test_caches_are_found_whole(here):
    kinds = [here / "runs/cache" / kind for kind in ("text", "latents")]
    before = [files_in(folder) for folder in kinds]
    said = done(*goldens.cached(here)).out
    assert re.findall(r"(\w+): (\d+) made, (\d+) there", said) == [("prompts", "0", "51"), ("latents", "0", "15")]
    assert [files_in(folder) for folder in kinds] == before


def test_an_evaluation_finds_its_pictures_and_features_and_gives_the_same_table(here):
    (metrics,) = run_in(here, "mamoe").glob("eval/*/*/metrics.json")
    before, pictures, features = scores_in(metrics), files_in(metrics.parent / "cfg"), files_in(here / FEATURES)
    done(*goldens.evaluated(here))
    assert files_in(metrics.parent / "cfg") == pictures
    assert_same_records(scores_in(metrics), before)
    found = files_in(here / FEATURES)
    assert found.keys() == features.keys()
    assert [name for name in found if found[name] != features[name] and not name.endswith("about.json")] == []


def test_real_pictures_and_layouts_are_scored_as_before(here):
    assert_same_records(folder_scores(here), RECORDS["folder scores"])
    assert_same_records(colour_hits(here), RECORDS["colour hits"])


def test_a_sampling_job_is_finished_and_draws_the_same_again(here):
    before = files_in(here / "pictures")
    assert "2 pictures in" in (said := done(*goldens.sampled(here, here / "pictures")).out) and "0 of them new" in said
    now = files_in(here / "pictures")
    assert {name: now[name] for name in before} == before
    done(*goldens.sampled(here, here / "again"))
    old, new = pixels_in(here / "pictures"), pixels_in(here / "again")
    assert old.keys() == new.keys()
    assert all(np.abs(old[name] - new[name]).max() <= 1 for name in old.keys() & before.keys())
    for name in (name for name in before if name.endswith(".json")):
        old = json.loads((here / "pictures" / name).read_text())
        assert json.loads((here / "again" / name).read_text()) == {**old, "mode": "cfg"}  # which was not said yet


def test_a_benchmark_is_done_and_reports_the_same(here):
    names = ("cells", "config", "tables", "name", "command")
    before = without_versions(json.loads((here / "bench/report.json").read_text()))
    results = files_in(here / "bench/cells")
    said = done(*BENCHMARK).out
    assert said.count("done before") == 2 and "2 cells, 0 failed" in said
    now = without_versions(json.loads((here / "bench/report.json").read_text()))
    del now["config"]["method_settings"]["mamoe_transformer"]  # came later, and is left out unless it is asked for
    assert {name: now[name] for name in names} == {name: before[name] for name in names}
    assert (here / "bench/report.csv").read_text() == (DISK / "bench/report.csv").read_text()
    assert files_in(here / "bench/cells") == results

    refused = mamoe(*BENCHMARK, "pictures.seed=1")
    assert refused.code == 2 and "2 cells in" in refused.err and "seed" in refused.err


def assert_same_records(found: object, wanted: object) -> None:
    """Equal, but for the last digits of numbers."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and list(found) == list(wanted)
        for key, value in wanted.items():
            assert_same_records(found[key], value)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    else:
        assert found == wanted
