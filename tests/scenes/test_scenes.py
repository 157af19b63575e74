"""The drawn street scenes: maps that fit the pictures, words that are true, colours that can be told apart."""

import csv
import json
import re
from functools import cache

import numpy as np
import pytest
from PIL import Image

from mamoe.scenes import COLOURS, Domain, Scene, draw_scene, write_scenes, writer
from mamoe.vocabulary.panoptic import PanopticMap

LARGE = 192  # pixels: three latent cells of 8x8
THINGS = {"person": 11, "rider": 12, "car": 13, "truck": 14, "bus": 15, "train": 16, "motorcycle": 17, "bicycle": 18}


@cache
def scene_of(domain: Domain, seed: int) -> Scene:
    return draw_scene(seed, domain=domain)


def scenes(domain: Domain, count: int) -> list[Scene]:
    return [scene_of(domain, seed) for seed in range(count)]


def both(count: int) -> list[Scene]:
    return [scene for domain in Domain for scene in scenes(domain, count)]


def large_things(scene: Scene) -> list[tuple[int, np.ndarray]]:
    masks = [(segment, scene.panoptic.segment_id == segment) for segment in scene.colours]
    return [(segment, mask) for segment, mask in masks if mask.sum() >= LARGE]


@pytest.mark.parametrize("domain", list(Domain))
def test_same_seed_gives_the_same_scene(domain: Domain) -> None:
    first, second = draw_scene(7, domain=domain), draw_scene(7, domain=domain)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.panoptic.segment_id, second.panoptic.segment_id)
    assert (first.caption, first.instance_prompts) == (second.caption, second.instance_prompts)


def test_other_seeds_and_domains_give_other_scenes() -> None:
    pictures = [scene.image.tobytes() for scene in both(12)]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (128, 256), (256, 128), (256, 512)])
def test_any_size(size: tuple[int, int]) -> None:
    for domain in Domain:
        for seed in range(2):
            scene = draw_scene(seed, domain=domain, height=size[0], width=size[1])
            assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
            assert scene.panoptic.size == size
            assert scene.panoptic.segment_id.min() > 0


@pytest.mark.parametrize("wrong", [{"height": 100}, {"width": 12}, {"seed": -1}])
def test_wrong_arguments_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draw_scene(**{"seed": 0, **wrong})


def test_maps_and_prompts_fit_together() -> None:
    for scene in both(40):
        classes = scene.panoptic.classes  # PanopticMap itself refuses segments of two classes
        assert set(classes.values()) <= set(range(19))
        stuff = [label for label in classes.values() if label < 11]
        assert len(stuff) == len(set(stuff))
        assert set(scene.instance_prompts) == {segment for segment, label in classes.items() if label >= 11}
        assert set(scene.colours) == set(scene.instance_prompts)
        for segment, prompt in scene.instance_prompts.items():
            words = prompt.split()
            assert scene.colours[segment] in COLOURS
            assert scene.colours[segment] in words
            assert classes[segment] in [THINGS[word] for word in words if word in THINGS]


def test_captions_only_name_what_is_there() -> None:
    thing = rf"an? (?:{'|'.join(COLOURS)}) (?:{'|'.join(THINGS)})|a (?:person|rider) in an? \w+ coat"
    for scene in both(40):
        named = re.findall(thing, scene.caption)
        assert set(named) <= set(scene.instance_prompts.values()), scene.caption
        assert len(named) <= 4
        colours_named = [word for word in re.findall(r"\w+", scene.caption) if word in COLOURS]
        assert len(colours_named) == len(named), scene.caption
        assert ("trees" not in scene.caption) or (scene.panoptic.class_id == 8).any()


def test_captions_of_the_town_say_dusk() -> None:
    for scene in scenes(Domain.DUSK_TOWN, 40):
        assert "dusk" in scene.caption or "evening" in scene.caption
        assert "town" in scene.caption


def test_vocabulary_is_small() -> None:
    texts = [text for scene in both(40) for text in (scene.caption, *scene.instance_prompts.values())]
    assert len({word for text in texts for word in re.findall(r"[a-z]+", text)}) <= 300


def test_mean_colours_are_nearest_to_their_own_word() -> None:
    means: list[tuple[str, np.ndarray]] = []
    for scene in scenes(Domain.DUSK_TOWN, 60):
        means += [(scene.colours[s], scene.image[mask].mean(axis=0)) for s, mask in large_things(scene)]
    words = sorted({word for word, _ in means})
    references = np.stack([np.mean([m for w, m in means if w == word], axis=0) for word in words])
    nearest = [words[int(np.linalg.norm(references - mean, axis=1).argmin())] for _, mean in means]
    right = np.mean([word == found for (word, _), found in zip(means, nearest, strict=True)])
    assert words == sorted(COLOURS)
    assert len(means) >= 2 * 60, "two large things per picture"
    assert right >= 0.96


def test_shares_of_the_classes_are_those_of_streets() -> None:
    maps = np.stack([scene.panoptic.class_id for scene in scenes(Domain.DUSK_TOWN, 60)])
    share = np.bincount(maps.ravel(), minlength=256) / maps.size
    bounds = {0: (0.25, 0.42), 1: (0.02, 0.09), 2: (0.16, 0.3), 8: (0.09, 0.2), 10: (0.05, 0.13)}
    bounds |= {5: (0.003, 0.02), 11: (0.005, 0.02), 13: (0.04, 0.11), 15: (0.005, 0.04)}
    for label, (low, high) in bounds.items():
        assert low <= share[label] <= high, (label, share[label])


def test_coloured_things_stand_out_from_what_surrounds_them() -> None:
    apart = []
    for scene in scenes(Domain.DUSK_TOWN, 60):
        for segment, mask in large_things(scene):
            if scene.colours[segment] in ("white", "black"):
                continue
            grown = mask.copy()
            for axis, step in ((0, 2), (0, -2), (1, 2), (1, -2)):
                grown |= np.roll(mask, step, axis)
            ring = grown & ~mask & (scene.panoptic.class_id < 11)
            if ring.sum() >= 40:
                difference = scene.image[mask].mean(axis=0) - scene.image[ring].mean(axis=0)
                apart.append(np.linalg.norm(difference) > 20.0)
    assert len(apart) > 100
    assert np.mean(apart) >= 0.97


def test_borders_of_the_map_lie_on_edges_of_the_picture() -> None:
    """Moved by two pixels either way, the borders meet far weaker edges: map and picture are aligned."""

    def edge_under_borders(shift: int) -> float:
        strengths = []
        for scene in scenes(Domain.DUSK_TOWN, 30):
            step = np.abs(np.diff(scene.image.astype(float).mean(axis=2), axis=1))
            border = np.diff(scene.panoptic.segment_id, axis=1) != 0
            strengths.append(step[np.roll(border, shift, axis=1)].mean())
        return float(np.mean(strengths))

    moved = [edge_under_borders(shift) for shift in (-2, -1, 1, 2)]
    assert edge_under_borders(0) > 1.3 * max(moved)
    assert moved[1] == pytest.approx(moved[2], rel=0.25)


def test_written_data_set(tmp_path) -> None:
    steps: list[tuple[int, int]] = []
    counts = {"train": 3, "val": 2}
    write_scenes(
        tmp_path, domain=Domain.BROAD, counts=counts, seed=5, height=64, width=64, progress=lambda *s: steps.append(s)
    )
    assert steps == [(number, 5) for number in range(1, 6)]
    pictures = []
    for split, count in counts.items():
        names = [f"scene_{number:06d}.png" for number in range(count)]
        with (tmp_path / f"prompts_{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["img_name"] for row in rows] == names
        assert all(row["prompt"] for row in rows)
        prompts = json.loads((tmp_path / f"instance_prompts_{split}.json").read_text())
        assert sorted(prompts) == names
        for name in names:
            panoptic = PanopticMap.read(tmp_path / "panoptic" / split / name)
            assert panoptic.size == (64, 64)
            assert {int(segment) for segment in prompts[name]} <= set(panoptic.classes)
            pictures.append(np.asarray(Image.open(tmp_path / "images" / split / name)).tobytes())
    assert len(set(pictures)) == 5, "splits share no scene"


def test_a_split_does_not_depend_on_the_others(tmp_path) -> None:
    for folder, counts in (("one", {"val": 1}), ("two", {"train": 1, "val": 1})):
        write_scenes(tmp_path / folder, counts=counts, height=64, width=64)
    first, second = (tmp_path / folder / "images/val/scene_000000.png" for folder in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_several_processes_write_the_same_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "WORTH_A_PROCESS", 4)
    counts, steps = {"train": 9, "test": 1}, []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        write_scenes(folder, counts=counts, height=64, width=64, workers=workers, progress=lambda *s: steps.append(s))
    assert steps == 2 * [(number, 10) for number in range(1, 11)]
    one, two = ({path.relative_to(tmp_path / n): path for path in (tmp_path / n).rglob("*.*")} for n in "12")
    assert list(one) and sorted(one) == sorted(two)
    assert all(path.read_bytes() == two[name].read_bytes() for name, path in one.items())


def test_too_many_scenes_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="counts"):
        write_scenes(tmp_path, counts={"train": 2_000_000})
