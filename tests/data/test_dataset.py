import json
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from inspecting import inspected
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.split import index_split, list_splits
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import DatasetError
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
HEIGHT, WIDTH = 32, 64


def _scene(number):
    """Sky with a car (segment 256+number) on the left and a person (segment 3) on the right; colours show segments."""
    segment = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    klass = np.full((HEIGHT, WIDTH), 10, dtype=np.uint8)
    segment[16:30, 4 : 20 + number], klass[16:30, 4 : 20 + number] = 256 + number, 13
    segment[8:30, 54:60], klass[8:30, 54:60] = 3, 11
    panoptic = PanopticMap(segment_id=segment, class_id=klass)
    colours = np.array([[90, 120, 200], [200, 30, 30], [20, 160, 60]], dtype=np.uint8)
    which = np.where(segment == 3, 2, (segment > 0).astype(int))
    return colours[which], panoptic


@pytest.fixture
def folder(tmp_path):
    """Three pictures per split named a2, a10, b1, complete and right."""
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "maps" / split).mkdir(parents=True)
        names = ["a2.png", "a10.png", "b1.png"]
        for number, name in enumerate(names):
            image, panoptic = _scene(number)
            Image.fromarray(image).save(tmp_path / "images" / split / name)
            panoptic.write(tmp_path / "maps" / split / name)
        rows = "".join(f'{name},"street {number}, dry"\n' for number, name in enumerate(names))
        (tmp_path / f"prompts_{split}.csv").write_text("img_name,prompt\n" + rows)
        prompts = {name: {str(256 + i): f"car {i}", "3": "a person"} for i, name in enumerate(names)}
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(prompts))
    return tmp_path


def _dataset(folder, split="train", **changes):
    geometry = Geometry(size=(HEIGHT, WIDTH))
    arguments = {
        "images": folder / "images",
        "panoptic_maps": folder / "maps",
        "prompts": folder / "prompts_{split}.csv",
        "instance_prompts": folder / "instances_{split}.json",
        "taxonomy": TAXONOMY,
        "geometry": geometry,
        "seed": 0,
    }
    return LayoutDataset(split=split, **{**arguments, **changes})


def _equal(a, b):
    return (
        a.key == b.key
        and torch.equal(a.image, b.image)
        and np.array_equal(a.panoptic.segment_id, b.panoptic.segment_id)
        and np.array_equal(a.panoptic.class_id, b.panoptic.class_id)
        and a.prompts == b.prompts
    )


def test_pairs_by_name_in_the_order_of_the_numbers(folder):
    dataset = _dataset(folder)
    assert dataset.keys == ("b1.png", "a2.png", "a10.png") and len(dataset) == 3
    for index, (key, number) in enumerate([("b1.png", 2), ("a2.png", 0), ("a10.png", 1)]):
        sample, (image, panoptic) = dataset[index], _scene(number)
        assert (sample.key, sample.index, sample.epoch) == (key, index, 0)
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
        assert np.array_equal(sample.panoptic.segment_id, panoptic.segment_id)
        assert np.array_equal(sample.panoptic.class_id, panoptic.class_id)
        assert sample.prompts.global_prompt == f"street {number}, dry"
        assert sample.prompts.by_segment == {256 + number: f"car {number}", 3: "a person"}


def test_names_order_naturally_and_those_without_numbers_come_last(tmp_path):
    names = ["x.png", "c_000010_2.png", "c_000002_10.png", "c_000010_1.png", "a5.png", "b5.png", "w.jpg"]
    for name in names:
        (tmp_path / "images" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "train" / name).touch()
    files = index_split(
        images=tmp_path / "images", panoptic_maps=tmp_path, split="train", prompts=None, instance_prompts=None
    )
    expected = ["c_000002_10.png", "a5.png", "b5.png", "c_000010_1.png", "c_000010_2.png", "w.jpg", "x.png"]
    assert [sample.key for sample in files.samples] == expected


def test_same_seed_epoch_and_index_give_the_same_sample_whatever_came_before(folder):
    geometry = Geometry(size=(24, 24), crop="random", flip=0.5)
    first, second = _dataset(folder, geometry=geometry), _dataset(folder, geometry=geometry)
    wanted = {(epoch, i): first[epoch, i] for epoch in range(4) for i in range(3)}
    torch.manual_seed(99)
    order = list(wanted)
    random.Random(1).shuffle(order)
    assert all(_equal(second[item], wanted[item]) for item in order)
    assert _equal(first[2], wanted[0, 2])
    assert any(not _equal(wanted[0, 1], wanted[epoch, 1]) for epoch in range(1, 4))
    other = _dataset(folder, geometry=geometry, seed=1)
    assert any(not _equal(other[item], wanted[item]) for item in order)


def test_augmentation_neither_reads_nor_moves_the_global_generator(folder):
    dataset = _dataset(folder, geometry=Geometry(size=(24, 24), crop="random", flip=0.5))
    before = torch.get_rng_state()
    dataset[3, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_give_what_the_main_process_gives(folder):
    dataset = _dataset(folder, geometry=Geometry(size=(24, 24), crop="random", flip=0.5))
    loader = DataLoader(dataset, batch_size=None, sampler=[(1, 2), (0, 0), (1, 1)], num_workers=2)
    for item, sample in zip([(1, 2), (0, 0), (1, 1)], loader, strict=True):
        assert _equal(sample, dataset[item])
    assert _equal(pickle.loads(pickle.dumps(dataset))[0], dataset[0])


def test_only_train_is_augmented(folder):
    geometry = Geometry(size=(24, 24), crop="random", flip=1.0)
    val = _dataset(folder, "val", geometry=geometry)
    centre = _dataset(folder, "train", geometry=geometry.for_evaluation())
    for epoch in range(3):
        for index in range(3):
            sample = val[epoch, index]
            assert torch.equal(sample.image, centre[0, index].image)
            assert np.array_equal(sample.panoptic.segment_id, centre[0, index].panoptic.segment_id)


def test_colours_and_segments_stay_aligned_under_crop_and_flip(folder):
    dataset = _dataset(folder, geometry=Geometry(size=(32, 32), crop="random", flip=0.5))
    for epoch in range(8):
        sample = dataset[epoch, 1]
        red, green = sample.image[0].numpy() > 150, sample.image[1].numpy() > 140
        assert np.array_equal(red, sample.panoptic.segment_id == 256)
        assert np.array_equal(green, sample.panoptic.segment_id == 3)


def test_prompts_of_segments_cropped_away_drop_out(folder):
    dataset = _dataset(folder, geometry=Geometry(size=(32, 32), crop="random"))
    seen = set()
    for epoch in range(12):
        sample = dataset[epoch, 1]
        assert set(sample.prompts.by_segment) == set(sample.panoptic.classes)
        seen.add(frozenset(sample.prompts.by_segment))
    assert len(seen) > 1


def test_without_prompt_files_the_prompts_are_empty(folder):
    sample = _dataset(folder, prompts=None, instance_prompts=None)[0]
    assert sample.prompts.global_prompt == "" and sample.prompts.by_segment == {}


def test_a_jpeg_finds_the_png_of_its_stem(folder):
    image = Image.open(folder / "images/train/a2.png")
    image.save(folder / "images/train/a2.jpg", quality=95)
    (folder / "images/train/a2.png").unlink()
    dataset = _dataset(folder, prompts=None, instance_prompts=None)
    assert dataset.keys[1] == "a2.jpg"
    assert np.array_equal(dataset[1].panoptic.segment_id, _scene(0)[1].segment_id)


def test_check_returns_what_the_split_holds(folder):
    seen = []
    contents = inspected(_dataset(folder), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (contents.images, contents.with_prompt, contents.instance_prompts) == (3, 3, 6)
    assert contents.instances[13] == contents.instances[11] == 3 and contents.instances.sum() == 6
    assert contents.pixels.sum() == 3 * HEIGHT * WIDTH and contents.pixels[11] == 3 * 22 * 6


def test_all_problems_come_in_one_error(folder):
    images, maps = folder / "images/train", folder / "maps/train"
    for name in ["c3.png", "c4.png", "c5.png", "c6.png", "c7.png"]:
        image, panoptic = _scene(0)
        Image.fromarray(image).save(images / name)
        panoptic.write(maps / name)
    (maps / "c3.png").unlink()
    Image.fromarray(_scene(0)[0][:16]).save(images / "c4.png")
    _, panoptic = _scene(0)
    klass = np.where(panoptic.class_id == 10, 34, panoptic.class_id).astype(np.uint8)
    PanopticMap(segment_id=panoptic.segment_id, class_id=klass).write(maps / "c5.png")
    (images / "c6.png").write_bytes((images / "c6.png").read_bytes()[:60])
    (maps / "c7.png").write_bytes(b"nothing")
    with (folder / "prompts_train.csv").open("a") as file:
        file.write("c3.png,x\nc4.png,x\nc5.png,x\nc6.png,x\ngone.png,x\na2.png,twice\n")
    instances = json.loads((folder / "instances_train.json").read_text())
    instances["a2.png"]["77"] = "a ghost"
    instances["lost.png"] = {"1": "x"}
    (folder / "instances_train.json").write_text(json.dumps(instances))
    with pytest.raises(DatasetError) as caught:
        inspected(_dataset(folder))
    message = str(caught.value)
    for part in [
        f"{images / 'c3.png'} has no panoptic map",
        f"{maps / 'c4.png'} has (height, width) (32, 64), but its picture c4.png has (16, 64)",
        f"{maps / 'c5.png'}: class id 34",
        f"Cannot read the picture {images / 'c6.png'}",
        f"Cannot read the panoptic map {maps / 'c7.png'}",
        f"{folder / 'instances_train.json'}, key 'a2.png' -> '77': no such segment",
        f"{folder / 'instances_train.json'}, key 'lost.png': there is no such picture",
        "prompts_train.csv, line 10: 'a2.png' already has a prompt in line 2",
        "prompts_train.csv, line 9, 'gone.png': there is no such picture",
        f"{images / 'c7.png'} has no prompt in {folder / 'prompts_train.csv'}",
        "has 10 problems",
    ]:
        assert part in message
    assert caught.value.exit_code == 3


def test_a_split_with_problems_gives_no_samples(folder):
    (folder / "maps/train/a2.png").unlink()
    with pytest.raises(DatasetError, match=r"a2\.png has no panoptic map"):
        _dataset(folder)[0]


@pytest.mark.parametrize("missing", ["images", "maps"])
def test_missing_folders_are_named(folder, missing):
    arguments = {"images": {"images": folder / "none"}, "maps": {"panoptic_maps": folder / "none"}}[missing]
    with pytest.raises(DatasetError, match="none/train"):
        inspected(_dataset(folder, **arguments))


def test_an_empty_split_and_missing_text_files(folder):
    (folder / "images" / "test").mkdir()
    with pytest.raises(DatasetError) as caught:
        inspected(_dataset(folder, "test"))
    for part in ["holds no pictures", "prompts_test.csv", "instances_test.json", "maps/test"]:
        assert part in str(caught.value)


def test_two_pictures_of_one_stem(folder):
    Image.open(folder / "images/train/a2.png").save(folder / "images/train/a2.jpg")
    with pytest.raises(DatasetError, match="2 pictures are called 'a2'"):
        inspected(_dataset(folder, prompts=None))


@pytest.mark.parametrize("kind", ["images", "maps"])
def test_a_file_that_breaks_during_training_is_named(folder, kind):
    dataset = _dataset(folder)
    inspected(dataset)
    path = folder / kind / "train" / "a2.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(DatasetError, match=r"a2\.png"):
        dataset[1]


def test_sizes_that_differ_are_found_while_training(folder):
    Image.fromarray(_scene(0)[0][:16]).save(folder / "images/train/a2.png")
    with pytest.raises(DatasetError, match=r"\(32, 64\), but its picture .*\(16, 64\)"):
        _dataset(folder)[1]


def test_sixteen_bit_pictures_are_refused(folder):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint16)).save(folder / "images/train/a2.png")
    with pytest.raises(DatasetError, match="convert it to 8 bits"):
        _dataset(folder)[1]


@pytest.mark.parametrize("index", [3, -1])
def test_indices_outside_are_index_errors(folder, index):
    with pytest.raises(IndexError, match="3 samples"):
        _dataset(folder)[index]


def test_list_splits(folder):
    for name in ("test", "other", ".hidden"):
        (folder / "images" / name).mkdir()
    assert list_splits(folder / "images") == ["train", "val", "test", "other"]
    with pytest.raises(DatasetError, match="one folder of pictures per split"):
        list_splits(folder / "nowhere")
