"""The check of a data set, where a training starts and alone, and what goes wrong in data workers."""

import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from factories import break_picture, mamoe
from inspecting import inspected
from mamoe.assemble.checking import check_data
from mamoe.assemble.data import layout_settings, splits
from mamoe.commands.evaluate_after import check_after
from mamoe.config.compose import compose
from mamoe.config.train import EvaluateAfter, validated
from mamoe.console import silent
from mamoe.data import dataset as dataset_module
from mamoe.data.check import split as inspection
from mamoe.data.check.seen import SeenFiles
from mamoe.data.dataset import LayoutDataset
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.check import check_folder
from mamoe.training.loop.explaining import OutOfMemoryError, explained
from mamoe.training.scale import cluster
from mamoe.vocabulary.panoptic import read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy

CITYSCAPES = Taxonomy.load("cityscapes")


@pytest.fixture
def data(scenes, tmp_path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def words(data: Path, *more: str) -> list[str]:
    """Of a training that checks its data and then finds no model."""
    runs = data.parent / "runs"
    return ["experiment=demo", f"data.root={data}", f"runs={runs}", "data.size=[64,64]", "model.path=nowhere", *more]


def paint(path: Path, change) -> None:
    rgb = read_panoptic_rgb(path).copy()
    change(rgb)
    Image.fromarray(rgb).save(path)


def dataset(data: Path, **changes) -> LayoutDataset:
    return LayoutDataset(
        **{
            "images": data / "images",
            "panoptic_maps": data / "panoptic",
            "split": "train",
            "prompts": data / "prompts_{split}.csv",
            "instance_prompts": data / "instance_prompts_{split}.json",
            "taxonomy": CITYSCAPES,
            "geometry": Geometry(size=(64, 64)),
            "seed": 0,
            **changes,
        }
    )


# The start of a training


@pytest.mark.parametrize("command", ["train", "cache"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_unknown_classes_are_refused_before_the_model_is_looked_for(data, command, split):
    path = sorted((data / "panoptic" / split).iterdir())[1]
    paint(path, lambda rgb: rgb.__setitem__(np.s_[:4, :8], (0, 0, 77)))  # pixels of no segment
    outcome = mamoe(command, *words(data))
    assert outcome.code == 3 and f"{path}: class id 77 (32 pixels) is unknown" in outcome.err, outcome.err


def test_a_segment_of_an_unknown_class_and_one_of_two_classes(data):
    first, second = sorted((data / "panoptic/train").iterdir())[:2]
    paint(first, lambda rgb: rgb.__setitem__(np.s_[:4, :8], (9, 9, 99)))
    paint(second, lambda rgb: (rgb.__setitem__(np.s_[:2], (9, 9, 13)), rgb.__setitem__(np.s_[2:4], (9, 9, 11))))
    outcome = mamoe("train", *words(data))
    assert outcome.code == 3 and f"{first}: class id 99 (32 pixels)" in outcome.err
    assert f"{second} is wrong: Every segment must have one class, but segments 2313 (classes 11, 13)" in outcome.err


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_picture_that_is_cut_off_late_is_found_at_the_start(data, suffix):
    path = sorted((data / "images/train").iterdir())[-1]
    if suffix != "png":
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
        path = path.with_suffix(f".{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    outcome = mamoe("train", *words(data, "data.prompts=null", "data.instance_prompts=null"))
    assert outcome.code == 3 and f"Cannot read the picture {path}" in outcome.err, outcome.err


def test_a_flipped_bit_in_a_picture_is_found(data):
    path = sorted((data / "images/train").iterdir())[0]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=path.name):
        inspected(dataset(data))


def test_the_split_that_is_scored_afterwards_is_checked_first(data):
    path = sorted((data / "images/test").iterdir())[0]
    break_picture(path)
    with pytest.raises(DatasetError, match=path.name):
        check_after(validated(compose(words(data))), EvaluateAfter(scores=["use"]))


def test_a_sound_data_set_is_opened_once(data, monkeypatch):
    opened = []
    for name in ("look_at_picture", "look_at_map"):
        real = getattr(inspection, name)
        monkeypatch.setattr(inspection, name, lambda path, real=real: (opened.append(path.name), real(path))[1])
    config = validated(compose(words(data)))

    def start() -> list[str]:
        opened.clear()
        check_data(config, splits(config, layout_settings(config).taxonomy), silent)
        return sorted(opened)

    assert len(start()) == 2 * (6 + 3)
    assert start() == []
    changed, broken = sorted((data / "panoptic/train").iterdir())[:2]
    paint(changed, lambda rgb: rgb.__setitem__(np.s_[:4, :8], (0, 0, 2)))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=broken.name):
        start()
    assert sorted(opened) == [changed.name, broken.name]
    with pytest.raises(DatasetError, match=broken.name):  # what is wrong is looked at again
        start()
    assert opened == [broken.name]
    broken.write_bytes(whole)
    assert start() == [broken.name] and start() == []
    paint(changed, lambda rgb: rgb.__setitem__(np.s_[:4, :8], (0, 0, 77)))
    for _ in range(2):  # known to be readable, and still of a class nobody knows
        with pytest.raises(DatasetError, match="class id 77"):
            start()
    assert opened == []


@pytest.mark.parametrize("harm", ["cut", "flipped", "foreign", "older"])
def test_a_damaged_or_foreign_memory_of_the_check_is_left_out_with_a_word(data, tmp_path, harm, monkeypatch):
    path = tmp_path / "seen.safetensors"
    seen = SeenFiles(path)
    before = inspection.inspect_split(dataset(data).files, CITYSCAPES, seen=seen)
    if harm == "older":
        monkeypatch.setattr("mamoe.data.check.seen.VERSION", "0")
    seen.save()
    monkeypatch.undo()
    bytes_ = bytearray(path.read_bytes())
    bytes_[-9] ^= 1
    harmed = {"cut": bytes_[:-40], "flipped": bytes_, "foreign": b"\x80\x04pickle", "older": path.read_bytes()}
    path.write_bytes(harmed[harm])
    with pytest.warns(UserWarning, match=r"seen\.safetensors is left out .* opened again"):
        again = SeenFiles(path)
    after = inspection.inspect_split(dataset(data).files, CITYSCAPES, seen=again)
    assert after.problems == () and np.array_equal(before.pixels, after.pixels)
    again.save()
    third = inspection.inspect_split(dataset(data).files, CITYSCAPES, seen=SeenFiles(path))
    assert np.array_equal(before.pixels, third.pixels) and np.array_equal(before.instances, third.instances)


def test_other_processes_wait_for_the_first_and_hear_what_it_found(monkeypatch):
    store, ran = torch.distributed.HashStore(), []

    class Environment:
        def __init__(self, rank):
            self.global_rank, self.world_size = (lambda: rank), (lambda: 2)

    def process(rank: int, work) -> None:
        monkeypatch.setattr(cluster, "_started_by_others", lambda: Environment(rank))
        cluster.done_first(work)

    def fails():
        ran.append("fails")
        raise DatasetError("picture 7 is broken")

    monkeypatch.setattr(cluster, "_store", lambda: store)
    for rank in (0, 1):
        monkeypatch.setattr(cluster, "_MEETINGS", count())
        process(rank, lambda rank=rank: ran.append(rank))
        with pytest.raises(DatasetError, match="picture 7"):
            process(rank, fails)
    assert ran == [0, "fails"]


# Data workers


class Failing:
    """A transform of the user's that fails on a white picture."""

    def __call__(self, image, ids):
        if image.min() == 255:
            raise RuntimeError("nobody thought of white")
        return image, ids


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_in_a_worker_names_its_file(data, tmp_path, monkeypatch, workers):
    """With the class, and so the exit code, that it has in this process."""
    source = dataset(data, geometry=Geometry(size=(64, 64), extra=[Failing()]))
    inspected(source)
    pictures = [files.image for files in source.files.samples]
    maps = [files.panoptic for files in source.files.samples]
    read = dataset_module.read_picture

    def reading(path: Path) -> np.ndarray:
        if path == pictures[3]:
            raise np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(np.uint8))
        if path == pictures[4]:
            raise ZeroDivisionError("a fault of ours")
        return read(path)

    monkeypatch.setattr(dataset_module, "read_picture", reading)
    break_picture(pictures[0])
    break_picture(maps[1])
    Image.new("RGB", (64, 64), "white").save(pictures[2])
    Image.new("RGB", (64, 32)).save(pictures[5])
    wanted = [
        (DatasetError, pictures[0]),
        (DatasetError, maps[1]),
        (ConfigError, pictures[2]),
        (OutOfMemoryError, pictures[3]),
        (ZeroDivisionError, pictures[4]),
        (DatasetError, pictures[5]),
    ]
    loader = DataLoader(source, batch_size=1, num_workers=workers, multiprocessing_context="fork" if workers else None)
    batches = iter(loader)
    for kind, path in wanted:
        with pytest.raises(kind) as caught, explained(tmp_path):
            next(batches)
        said = "".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert str(path) in said and ("Traceback" not in said or kind is ZeroDivisionError)
    assert next(batches, None) is None  # which ends the worker


# What a check says


def split_of_maps(folder: Path, maps: list[np.ndarray]) -> Path:
    for name in ("images/train", "panoptic/train"):
        (folder / name).mkdir(parents=True)
    for i, rgb in enumerate(maps):
        Image.new("RGB", rgb.shape[1::-1]).save(folder / f"images/train/{i}.png")
        Image.fromarray(rgb.astype(np.uint8)).save(folder / f"panoptic/train/{i}.png")
    return folder


def coded(segments: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.stack([segments >> 8, segments & 255, classes], axis=-1)


def street(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Segment and class ids of sky, building, road, cars and a person."""
    classes = np.repeat([10] * 12 + [2] * 8 + [0] * 12, 64).reshape(32, 64)
    segments = np.zeros_like(classes)
    for number, klass in enumerate([13, 13, 13, 11], start=1):
        place = np.s_[18:24, 8 * number + seed : 8 * number + seed + 6]
        classes[place], segments[place] = klass, number
    return segments, classes


def painted(palette: np.ndarray) -> list[np.ndarray]:
    return [palette[street(seed)[1]] for seed in range(3)]


def odd_maps(kind: str) -> list[np.ndarray]:
    segments, classes = zip(*(street(seed) for seed in range(3)), strict=True)
    voc = np.zeros((256, 3), dtype=np.uint8)
    voc[[0, 2, 10, 11, 13]] = [(0, 0, 0), (0, 128, 0), (64, 128, 0), (192, 128, 0), (192, 0, 128)]  # as published
    many = np.arange(32 * 64).reshape(32, 64)
    if kind == "bgr":
        return [coded(s, c)[..., ::-1] for s, c in zip(segments, classes, strict=True)]
    if kind == "coco":  # as panopticapi.utils.id2rgb of Cityscapes' ids
        ids = [np.where(s > 0, c * 1000 + s, c + 300) for s, c in zip(segments, classes, strict=True)]
        return [np.stack([i % 256, i // 256, i * 0], axis=-1) for i in ids]
    return {
        "voc colours": painted(voc),
        "cityscapes colours": painted(CITYSCAPES.palette),
        "own colours": painted(np.random.default_rng(0).integers(40, 250, (256, 3))),
        "grey": [np.repeat(c[..., None], 3, axis=-1) for c in classes],
        "label ids": [
            coded(s, np.array([7, 8, 11, *range(12, 19), 23, 24, 25, 26])[c]) for s, c in map(street, range(3))
        ],
        "photographs": [np.stack([many % 251, many % 241, many % 239], axis=-1)] * 2,
        "one class": [coded(segments[0] * 0, classes[0] * 0)] * 2,
        "void": [coded(segments[0] * 0, classes[0] * 0 + 19)],
        "all things": [coded(many % 8 + 1, many % 8 + 11)] + [coded(*street())] * 2,
        "no segments": [coded(s * 0, c) for s, c in zip(segments, classes, strict=True)],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said", "way"),
    [
        ("bgr", "order BGR", "::-1"),
        ("coco", "panoptic PNGs of COCO's kind", "mamoe prepare coco"),
        ("voc colours", "colour-coded semantic maps (the colours of PASCAL VOC)", "mamoe prepare"),
        ("cityscapes colours", "the taxonomy cityscapes's colours", "mamoe prepare cityscapes"),
        ("own colours", "all 3 maps share 5 colours", "class id"),
        ("grey", "R = G = B everywhere", "mamoe prepare camvid"),
        ("label ids", "Cityscapes' label ids", "mamoe prepare cityscapes"),
        ("photographs", "as many colours as photographs", "nearest"),
        ("one class", "road is the only class in 2 maps, with 100%", "blue channel"),
        ("void", "every pixel of 1 map is void", "blue channel"),
        ("all things", "1 map holds things of every one of the 8 classes of things (0.png)", "blue channel"),
        ("no segments", "no segment of one", "segment id = R*256 + G"),
    ],
)
def test_maps_that_mean_something_else_are_told_apart(tmp_path, kind, said, way):
    report = check_folder(split_of_maps(tmp_path, odd_maps(kind)), CITYSCAPES)
    told = [warning for warning in report.warnings if warning.startswith(f"{tmp_path}/panoptic/train: ")]
    assert len(told) == 1 and said in told[0] and way in told[0], report.text()
    assert told[0] in report.text()


def test_maps_as_they_should_be_raise_no_alarm(scenes, tmp_path):
    assert not any("panoptic/train" in warning for warning in check_folder(scenes, CITYSCAPES).warnings)
    stray = [coded(*street(seed)) for seed in range(3)]
    stray[0][:2, :2, 2] = 200
    for i, maps in enumerate(([coded(*street(seed)) for seed in range(3)], [coded(*street())], stray)):
        report = check_folder(split_of_maps(tmp_path / str(i), maps), CITYSCAPES)
        assert not [w for w in report.warnings if "panoptic/train: " in w and "belong" not in w], report.text()


def test_warnings_alone_end_with_0_and_are_said_at_the_start_of_a_training(tmp_path):
    split_of_maps(tmp_path / "data", odd_maps("one class"))
    shutil.copytree(tmp_path / "data/images/train", tmp_path / "data/images/val")
    shutil.copytree(tmp_path / "data/panoptic/train", tmp_path / "data/panoptic/val")
    outcome = mamoe("check", tmp_path / "data", "--taxonomy", "cityscapes")
    assert outcome.code == 0 and "road is the only class in 2 maps" in outcome.out
    more = ["data.prompts=null", "data.instance_prompts=null"]
    for _ in range(2):  # also where no file had to be opened
        outcome = mamoe("train", *words(tmp_path / "data", *more))
        assert outcome.code == 2 and outcome.err.count("road is the only class in 2 maps") == 2, outcome.err


def test_long_lists_are_cut_and_counted(tmp_path):
    maps = [coded(*street())] * 60
    folder = split_of_maps(tmp_path, maps)
    for path in (folder / "images/train").iterdir():
        break_picture(path) if len(path.read_bytes()) > 200 else path.write_bytes(b"x")
    outcome = mamoe("check", folder, "--taxonomy", "cityscapes")
    assert outcome.code == 3 and "60 problem(s):" in outcome.out and "- and 10 more" in outcome.out
    assert outcome.out.count("Cannot read the picture") == 50 and "60 problems" in outcome.err


def test_a_photograph_as_map_is_few_lines(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3))
    report = check_folder(split_of_maps(tmp_path, [noise]), CITYSCAPES)
    assert 1 <= len(report.problems) < 10 and all(len(problem) < 1000 for problem in report.problems)


def test_results_are_taken_in_order_and_few_wait():
    from concurrent.futures import ThreadPoolExecutor

    begun = count()
    items = (next(begun) for _ in range(100))
    with ThreadPoolExecutor(2) as pool:
        results = inspection.in_order(pool, lambda i: i * i, items, ahead=8)
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert next(begun) <= 3 + 8
        results.close()
