"""Splits that are missing or held out, and sets without captions."""

import pytest
from described_sets import configured as configured
from described_sets import data_set
from described_sets import defaults as defaults
from described_sets import elsewhere as elsewhere
from described_sets import harbour as harbour

from factories import mamoe
from mamoe.data.folder.holdout import held_out
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.check import check_folder

# Splits and captions.


def test_a_set_without_val_trains_on_what_is_left(configured, tmp_path, capsys):
    from mamoe.assemble.data import dataset, layout_settings, splits

    names = [f"town{i}_{n:04d}.png" for i in range(3) for n in range(4)]
    config = configured(data_set(tmp_path / "set", train=names, val=()), val_share=0.3)
    taxonomy = layout_settings(config).taxonomy
    trains, validates = splits(config, taxonomy)
    assert "4 of 12 pictures of 'train' are held out" in capsys.readouterr().err
    assert sorted([*trains.keys, *validates.keys]) == names
    assert len({key.split("_")[0] for key in validates.keys}) == 1 and validates.split == "val"
    assert dataset(config, "val", taxonomy).keys == validates.keys  # whoever asks
    assert validates[0].key == validates.keys[0]
    (tmp_path / "set/images/val").mkdir()  # as `mamoe scenes --val 0` leaves it
    assert splits(config, taxonomy)[1].keys == validates.keys


def test_val_share_where_there_is_val(configured, tmp_path):
    from mamoe.assemble.data import layout_settings, splits

    config = configured(data_set(tmp_path / "set"), val_share=0.3)
    with pytest.raises(ConfigError, match=r"leave data\.val_share out"):
        splits(config, layout_settings(config).taxonomy)
    with pytest.raises(ConfigError, match="val_share"):
        configured(tmp_path / "set", val_share=1.5)


@pytest.mark.parametrize(
    ("names", "share", "scenes"),
    [
        ([f"{city}_{n:06d}_000019" for city in ("aachen", "bochum", "ulm") for n in range(4)], 0.1, 1),
        ([f"{city}_0_{n}_leftImg8bit" for city in ("aachen", "bochum", "ulm") for n in range(9)], 0.4, 1),
        ([f"{video}_f{n:05d}" for video in ("0006R0", "0016E5", "Seq05VD", "0001TP") for n in range(5)], 0.5, 2),
        ([f"video{i}_{n}" for i in range(5) for n in range(6)], 0.2, 1),
        ([f"video_{i}_{n}" for i in range(5) for n in range(6)], 0.2, 1),
        ([f"{city}/frame{n}" for city in ("aachen", "bochum", "ulm") for n in range(3)], 0.3, 1),
    ],
)
def test_scenes_are_held_out_whole(names, share, scenes):
    places = held_out([f"{name}.png" for name in names], share)
    chosen = {names[place] for place in places}
    of_scene = {name: name.split("/")[0] if "/" in name else name.split("_f")[0] for name in names}
    if names[0].startswith(("aachen_", "video")):
        parts = 2 if names[0].startswith("video_") else 1
        of_scene = {name: "_".join(name.split("_")[:parts]) for name in names}
    held = {of_scene[name] for name in chosen}
    assert len(held) == scenes and {name for name in names if of_scene[name] in held} == chosen


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (4, 1), (30, 3)])
def test_of_a_single_scene_the_last_pictures_are_held_out(count, expected):
    names = [f"train_{n:04d}.png" for n in range(count)]
    assert held_out(names, 0.1) == tuple(range(count - expected, count)) == held_out(names, 0.1)


def test_one_picture_cannot_do_both():
    with pytest.raises(DatasetError, match="overfit_images"):
        held_out(["a.png"], 0.1)


def test_many_scenes_of_one_picture_each():
    names = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}.png" for i in range(200)]
    assert len(held_out(names, 0.1)) == 20


def test_a_set_without_captions_trains(configured, tmp_path):
    from mamoe.assemble.data import layout_settings, splits

    said: list[str] = []
    root = data_set(tmp_path / "set", described="taxonomy: cityscapes\n")
    config = configured(root, say=said.append)
    trains, _ = splits(config, layout_settings(config).taxonomy)
    assert {prompts.global_prompt for prompts in trains.prompts} == {""}
    assert said == [f"{root} holds no prompts_{{split}}.csv: every global prompt is empty."]
    outcome = mamoe("check", root)
    assert outcome.code == 0 and said[0] in outcome.out
    named = configured(root, prompts="captions_{split}.csv")  # what was named must be there
    with pytest.raises(DatasetError, match=r"captions_train\.csv"):
        splits(named, layout_settings(named).taxonomy)


def test_check_says_which_splits_a_training_lacks(tmp_path):
    assert "holds out 10%" in check_folder(data_set(tmp_path / "a", val=())).text()
    assert "a training needs one" in check_folder(data_set(tmp_path / "b", train=())).text()
    assert "split 'val'" not in check_folder(data_set(tmp_path / "c")).text()
