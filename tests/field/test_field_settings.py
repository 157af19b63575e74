"""Settings that cannot be meant, however they came about."""

import copy

import pytest
from described_sets import configured, data_set, defaults, elsewhere

from mamoe.commands.train import told
from mamoe.config.compose import readable
from mamoe.config.train import validated
from mamoe.data.folder.description import data_folder
from mamoe.errors import ConfigError, DatasetError

assert configured and defaults and elsewhere


@pytest.mark.parametrize("key", ["model.path", "data.root", "data.prompts", "cache.folder", "runs", "+seed"])
def test_a_setting_with_nothing_behind_is_refused(key):
    with pytest.raises(ConfigError, match=r"nothing follows; was a shell's variable empty\? None is .*=null"):
        readable([f"{key}="])


def test_an_empty_text_can_be_written():
    assert readable(["layout.dataset_prompt=''", "~optimizer.name="]) == [
        "layout.dataset_prompt=''",
        "~optimizer.name=",
    ]


@pytest.fixture(scope="module")
def plain(defaults, tmp_path_factory):
    """A configuration that holds."""
    from mamoe.config.described import described

    root = data_set(tmp_path_factory.mktemp("set"), described="taxonomy: cityscapes\nsize: [16, 16]\n")
    return described({**defaults, "data": {**defaults["data"], "root": str(root)}}, lambda text: None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ".."),
        ("name", "."),
        ("name", ".hidden"),
        ("data.size", [8 << 20, 8]),
        ("data.size", 8 << 20),
        ("data.batch_size", 10**12),
        ("data.num_workers", 100_000),
        ("trainer.max_steps", 10**24),
        ("trainer.max_epochs", 10**24),
        ("trainer.accumulate_grad_batches", 10**12),
    ],
)
def test_a_slip_of_the_pen_is_refused_before_anything_is_made(plain, key, value):
    validated(plain)
    changed = copy.deepcopy(plain)
    *sections, last = key.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(ConfigError, match=key):
        validated(changed)


def test_a_size_that_no_picture_has_in_a_data_yaml(tmp_path):
    root = data_set(tmp_path / "set", described="taxonomy: cityscapes\nsize: [8000000, 8]\n")
    with pytest.raises(DatasetError, match="size must be"):
        data_folder(root)


def test_a_run_may_be_named_as_other_settings_are(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "a run"
    run.mkdir(parents=True)
    (run / "overrides.txt").write_text("seed=3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in (f"'{run}'", f'"{run}"', "~/runs/a run"):
        words, found = told([f"resume={named}", "seed=4"])
        assert found == run and words == ["seed=4", f"resume='{run}'"]
