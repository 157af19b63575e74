"""What a data set says about itself holds wherever it is used: data.yaml, classes, splits, captions."""

import shutil
from pathlib import Path

import pytest
import yaml
from described_sets import BOMB, HARBOUR, data_set
from described_sets import configured as configured
from described_sets import defaults as defaults
from described_sets import elsewhere as elsewhere
from described_sets import harbour as harbour

from factories import drawn_data, mamoe
from mamoe.assemble.record import newest_like
from mamoe.config.compose import SHIPPED, compose
from mamoe.config.train import validated
from mamoe.data.folder.description import data_folder, data_yaml
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.check import check_folder
from mamoe.scenes import write_scenes
from mamoe.vocabulary.taxonomy import Taxonomy

# The taxonomy.


def test_training_takes_the_classes_that_data_yaml_names(harbour, configured):
    from mamoe.assemble.data import layout_settings, splits

    config = configured(harbour)
    settings = layout_settings(config)
    assert [row.name for row in settings.taxonomy.classes] == ["water", "quay", "boat"]
    assert settings.experts.names == ("rest", "things")  # the default grouping, which harbour.yaml does not spell out
    assert config.data.size == (16, 16)
    assert [len(source) for source in splits(config, settings.taxonomy)] == [2, 1]
    assert config.taxonomy["name"] == "harbour"  # its contents are in the run's config.yaml
    (harbour / "harbour.yaml").unlink()
    assert layout_settings(config).taxonomy == settings.taxonomy


@pytest.mark.parametrize("words", [["taxonomy=cityscapes", "data=folder"], ["data=camvid"]])
def test_contradicting_classes_are_refused(harbour, words):
    name = words[0].partition("=")[2]
    with pytest.raises(ConfigError, match=f"'harbour', but the taxonomy '{name}' was asked for: class 0 is water"):
        compose([*words, f"data.root={harbour}"])


def test_contradicting_options_are_refused(harbour):
    with pytest.raises(ConfigError, match="harbour"):
        check_folder(harbour, Taxonomy.load("camvid"))
    refusal = mamoe("evaluate", harbour / "images/train", "--data", harbour, "--taxonomy", "camvid")
    assert refusal.code == 2 and "'harbour'" in refusal.err and "'camvid'" in refusal.err


def test_the_same_classes_with_groupings_of_ones_own_are_no_contradiction(harbour, configured, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(HARBOUR.replace("name: harbour", "name: mine") + "groupings: {wet: {wet: [water, boat]}}\n")
    config = configured(harbour, taxonomy=str(own))
    assert config.taxonomy["name"] == "mine"
    assert check_folder(harbour, Taxonomy.load(own)).problems == ()


@pytest.mark.parametrize("name", ["harbour.yaml", "my harbour (new).yml", "hafen-ä.yaml"])
def test_taxonomy_may_be_a_path_everywhere(harbour, name, tmp_path):
    (harbour / "harbour.yaml").unlink()
    (harbour / "data.yaml").unlink()
    path = tmp_path / name
    path.write_text(HARBOUR)
    quoted = f"taxonomy='{path}'" if "(" not in name else f"taxonomy={path}"
    assert compose(["data=camvid", f"data.root={harbour}", quoted])["taxonomy"]["name"] == "harbour"  # above data's own
    assert mamoe("check", harbour, "--taxonomy", path).code == 0


def test_a_taxonomy_path_can_be_swept(harbour, monkeypatch):
    from mamoe.commands.train import launch_sweep

    ran = []
    monkeypatch.setattr(
        "mamoe.commands.train.launch", lambda words, dirs: ran.append(compose(words)["taxonomy"]["name"]) or 0
    )
    path = harbour / "harbour.yaml"
    launch_sweep(["data=folder", f"data.root={harbour}", f"taxonomy={path}", "seed=0,1"])
    assert ran == ["harbour", "harbour"]


def test_a_benchmark_looks_at_what_data_yaml_names(harbour):
    from mamoe.commands.benchmark.run import planned

    with pytest.raises(ConfigError, match=r"full on dusk_town: .*'harbour', but the taxonomy 'scenes'"):
        planned(["methods=[full]", f"scenes.root={harbour}"])


def test_nobody_says_the_classes(configured, tmp_path):
    said: list[str] = []
    root = data_set(tmp_path / "plain")
    assert configured(root, say=said.append).taxonomy["name"] == "cityscapes"
    assert any("cityscapes's are taken" in text for text in said)
    outcome = mamoe("check", root)
    assert outcome.code == 0 and "cityscapes's are taken" in outcome.out  # the same answer


def test_a_missing_taxonomy_file_is_named(harbour, configured):
    (harbour / "harbour.yaml").unlink()
    with pytest.raises(DatasetError, match=r"data\.yaml, taxonomy: Cannot read .*harbour\.yaml"):
        configured(harbour)
    with pytest.raises(ConfigError, match=r"Cannot read .*none\.yaml"):
        configured(harbour, taxonomy="none.yaml")
    with pytest.raises(ConfigError, match=r"path of any \.yaml"):
        compose(["taxonomy=harbor"])


def test_things_are_a_grouping_of_every_taxonomy_that_has_some():
    plain = yaml.safe_load(HARBOUR)
    assert Taxonomy.from_dict(plain).grouping("things").expert_of_class[:3].tolist() == [0, 0, 1]
    own = {**plain, "groupings": {"things": {"water": ["water"]}}}
    assert Taxonomy.from_dict(own).grouping("things").names == ("rest", "water")
    stuff = {**plain, "classes": plain["classes"][:2]}
    with pytest.raises(ConfigError, match="Known are per_class;"):
        Taxonomy.from_dict(stuff).grouping("things")


# What stands in data.yaml.


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prompt: x.csv", "no key 'prompt', did you mean prompts?"),
        ("panoptic: x", "no key 'panoptic', did you mean panoptic_maps?"),
        ("instance_prompt: x\ntaxonomi: x", "did you mean taxonomy?"),
        ("zzz: 1", "there are images, panoptic_maps"),
        ("images: [a, b]", "images must be text"),
        ("panoptic_maps: ''", "panoptic_maps must be text"),
        ("prompts: 7", "prompts must be text"),
        ("taxonomy: {name: x}", "taxonomy must be text"),
        ("taxonomy: citiscapes", "did you mean 'cityscapes'"),
        ("images: images/{split}", "leave {split} out"),
        ("size: [100, 64]", "divisible by 8"),
        ("size: 64x64", "divisible by 8"),
        ("size: true", "divisible by 8"),
        ("size: [64, 64, 3]", "divisible by 8"),
        ("- images", "must map images"),
        ("images", "must map images"),
        ("", "must map images"),
        ("images: a\nimages: b", "images stands there twice"),
        ("images: !!python/object/apply:os.system [ls]", "not valid YAML of plain values"),
        ("size: 2020-99-99", "not valid YAML of plain values"),
        ("images: [", "not valid YAML"),
        ("[" * 1000, "nested too deep"),
        ("images: &a [*a]", "aliases"),
        (BOMB, "aliases"),
        ("x" * 2_000_000, "larger than"),
        ("images: /nowhere/at/all", "there is no /nowhere/at/all"),
    ],
)  # fmt: skip
def test_a_wrong_data_yaml_is_refused(text, complaint, tmp_path):
    root = tmp_path / "set"
    data_set(root, described=text)
    if "nowhere" in text:
        shutil.rmtree(root / "images")
    with pytest.raises(DatasetError) as caught:
        data_folder(root)
    assert complaint in str(caught.value) and "data.yaml" in str(caught.value) and len(str(caught.value)) < 600


def test_a_wrong_data_yaml_is_refused_by_every_command(tmp_path):
    root, pictures = data_set(tmp_path / "set", described="prompt: x.csv"), tmp_path / "set/images/train"
    for words in (
        ("train", "data=folder", f"data.root={root}"),
        ("cache", "data=folder", f"data.root={root}"),
        ("check", root),
        ("evaluate", pictures, "--data", root),
        ("new-base", root, tmp_path / "out"),
    ):
        outcome = mamoe(*words)
        assert outcome.code == 3 and "did you mean prompts?" in outcome.err


def test_bytes_that_are_no_text(tmp_path):
    root = data_set(tmp_path / "set")
    (root / "data.yaml").write_bytes(b"images: \xff\xfe")
    with pytest.raises(DatasetError, match=r"data\.yaml is not UTF-8"):
        data_folder(root)
    (root / "data.yaml").unlink()
    (root / "data.yaml").mkdir()
    with pytest.raises(DatasetError, match=r"Cannot read .*data\.yaml"):
        data_folder(root)


def test_a_taxonomy_file_is_read_as_carefully(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(HARBOUR + "name: again\n")
    with pytest.raises(ConfigError, match="name stands there twice"):
        Taxonomy.load(path)


def test_what_data_yaml_says_holds_unless_the_command_says_otherwise(configured, tmp_path):
    root = data_set(
        tmp_path / "set", described="taxonomy: cityscapes\nimages: photos\nprompts: words_{split}.csv\nsize: 64\n"
    )
    (root / "images").rename(root / "photos")
    (root / "words_train.csv").write_text("img_name,prompt\na_1.png,one\na_2.png,two\n")
    data = configured(root).data
    assert (data.images, data.prompts) == (str(root / "photos"), str(root / "words_{split}.csv"))
    assert (data.size, data.instance_prompts) == (64, None)
    told = configured(root, images="elsewhere", prompts=None, size=[32, 32]).data
    assert (told.images, told.prompts, told.size) == ("elsewhere", None, (32, 32))


# Moved and copied.


def test_a_prepared_set_moves(configured, tmp_path):
    drawn_data(tmp_path / "first", {"train": 2, "val": 1}, 32, 32)
    text = (tmp_path / "first/data.yaml").read_text()
    assert text == data_yaml("scenes", (32, 32)) and str(tmp_path) not in text
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/images/val")
    report = check_folder(tmp_path / "copy")
    assert list(report.splits) == ["train"]  # not those of the original
    (tmp_path / "first").rename(tmp_path / "moved")
    assert check_folder(tmp_path / "moved").problems == ()
    assert configured(tmp_path / "moved").data.size == (32, 32)


@pytest.mark.parametrize("original", ["there", "gone"])
def test_a_set_with_absolute_paths_is_read_where_it_lies(original, tmp_path):
    first, copy = tmp_path / "first", tmp_path / "copy"
    said = {"images": "images", "panoptic_maps": "panoptic", "taxonomy": "harbour.yaml"}
    data_set(first, described=yaml.safe_dump({key: str(first / name) for key, name in said.items()}))
    (first / "harbour.yaml").write_text(HARBOUR)
    assert data_folder(first).images == first / "images"
    assert not any("outside" in note for note in data_folder(first).notes)
    shutil.copytree(first, copy)
    if original == "gone":
        shutil.rmtree(first)
    parts = data_folder(copy)
    assert (parts.images, parts.panoptic_maps) == (copy / "images", copy / "panoptic")
    assert parts.taxonomy.name == "harbour"
    assert sum("moved or copied" in note for note in parts.notes) == 3
    assert "moved or copied" in mamoe("check", copy).out


def test_a_path_may_lead_elsewhere_on_purpose(tmp_path):
    root = data_set(tmp_path / "set")
    (root / "images").rename(tmp_path / "pictures")
    for text in (str(tmp_path / "pictures"), "../pictures"):
        (root / "data.yaml").write_text(f"images: {text}\ntaxonomy: cityscapes\n")
        parts = data_folder(root)
        assert parts.images.samefile(tmp_path / "pictures")
        assert any("outside of the data set" in note for note in parts.notes)
    (root / "images").symlink_to(tmp_path / "pictures")  # a link inside is inside
    (root / "data.yaml").write_text("images: images\ntaxonomy: cityscapes\n")
    assert not any("outside" in note for note in data_folder(root).notes)


def test_paths_of_older_versions_relative_to_the_working_directory(tmp_path):
    root = data_set(
        Path("streets"), described="images: streets/images\npanoptic_maps: streets/panoptic\ntaxonomy: cityscapes\n"
    )
    assert check_folder(root).problems == ()
    shutil.copytree(root, "copy")
    assert data_folder(Path("copy")).images == Path("copy/images")


def test_scenes_do_not_replace_another_description(tmp_path):
    root = data_set(tmp_path / "set", described="taxonomy: camvid\n")
    with pytest.raises(ConfigError, match="another data set"):
        write_scenes(root, counts={"train": 1}, height=64, width=64)
    outcome = mamoe("scenes", root, "--train", "1", "--val", "0", "--test", "0")
    assert outcome.code == 2 and "overwritten" in outcome.err
    assert (root / "data.yaml").read_text() == "taxonomy: camvid\n"


# What commands print and what is written down.


def test_the_next_command_of_scenes_can_be_run(tmp_path):
    import shlex

    out = tmp_path / "my town's"
    outcome = mamoe("scenes", out, "--train", "2", "--val", "0", "--test", "0", "--height", "32", "--width", "32")
    words = shlex.split(outcome.out.partition("Next: ")[2])
    assert words[:2] == ["mamoe", "train"]
    data = validated(compose(words[2:])).data
    assert data.size == (32, 32) and Path(data.images) == out / "images"


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "coco"])
def test_every_importer_has_a_configuration_of_data(name):
    assert (SHIPPED / "data" / f"{name}.yaml").is_file()
    assert Taxonomy.from_dict(compose([f"data={name}"])["taxonomy"]).name.startswith(name)


def test_configurations_of_old_runs_are_still_valid(harbour, configured):
    from mamoe.assemble.data import layout_settings

    old = configured(harbour).model_dump() | {"taxonomy": Taxonomy.load("scenes").to_dict()}
    old["data"]["taxonomy"] = str(harbour / "harbour.yaml")
    assert layout_settings(validated(old)).taxonomy.name == "harbour"


def test_an_old_run_is_still_the_newest_of_its_configuration(tmp_path, harbour):
    new = compose(["data=folder", f"data.root={harbour}"])
    old = {**new, "data": {key: value for key, value in new["data"].items() if key not in ("val_share", "recursive")}}
    (tmp_path / "runs/a/2026-01-01-x").mkdir(parents=True)
    (tmp_path / "runs/a/2026-01-01-x/config.yaml").write_text(yaml.safe_dump(old))
    assert newest_like(tmp_path / "runs", "a", new) == tmp_path / "runs/a/2026-01-01-x"
    assert newest_like(tmp_path / "runs", "a", {**new, "data": {**new["data"], "val_share": 0.2}}) is None


def test_an_own_yaml_after_the_old_template_still_works(tmp_path, harbour):
    folder = tmp_path / "cwd/configs/data"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        f"root: {harbour}\nimages: ${{.root}}/images\npanoptic_maps: ${{.root}}/panoptic\nprompts: null\n"
        "instance_prompts: null\nsize: [32, 32]\ncrop: null\n"
    )
    config = validated(compose(["data=mine", f"taxonomy={harbour / 'harbour.yaml'}"]))
    assert config.data.images == f"{harbour}/images" and config.data.size == (32, 32)
    assert config.taxonomy["name"] == "harbour"
