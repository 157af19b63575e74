"""Folders in folders, pictures of many sizes, transforms that uncover what was not there."""

import pytest
import torch
from odd_folders import PIPE, QUADRANTS, TAXONOMY, VOID, csv_of, indexed, make_set, panoptic
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from factories import mamoe
from inspecting import inspected
from mamoe.data.dataset import LayoutDataset
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.features.store import list_pictures
from mamoe.evaluation.protocol import PictureSet
from mamoe.evaluation.run import folder_row
from mamoe.machine.processes import Processes
from mamoe.sampling.filling import fill
from mamoe.sampling.jobs import LayoutFolder, list_jobs

# Folders in folders.


@pytest.fixture
def nested(tmp_path):
    """Two cities with a frame of one name, and one with a name of its own."""
    names = ["aachen/f_1.png", "bochum/f_1.jpg", "bochum/day/g_2.png"]
    make_set(tmp_path / "set", names)
    for name in names:
        path = tmp_path / "set/shown/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(QUADRANTS).save(path)
    return tmp_path / "set"


def test_a_nested_set_is_read_and_its_keys_are_relative(nested):
    prompts = csv_of(nested / "p.csv", "aachen/f_1.png,one", "bochum/f_1,two", "g_2.png,three")
    dataset = LayoutDataset(
        images=nested / "images",
        panoptic_maps=nested / "panoptic",
        split="train",
        prompts=prompts,
        instance_prompts=None,
        taxonomy=TAXONOMY,
        geometry=Geometry(size=(16, 32)),
        seed=0,
        condition=str(nested / "shown"),
        recursive=True,
    )
    inspected(dataset)
    assert dataset.keys == ("aachen/f_1.png", "bochum/f_1.jpg", "bochum/day/g_2.png")
    assert [p.global_prompt for p in dataset.prompts] == ["one", "two", "three"]
    assert [s.condition.parent.name for s in dataset.files.samples] == ["aachen", "bochum", "day"]
    assert dataset[1].key == "bochum/f_1.jpg"


def test_a_nested_set_is_told_about_the_key(nested):
    (problem,) = [p for p in indexed(nested).problems if "images" in p]
    assert "aachen, bochum" in problem and "data.recursive=true" in problem
    make_set(nested, ["top.png"])
    assert any("data.recursive=true" in note for note in indexed(nested).notes)
    for read in (
        lambda: list_jobs(LayoutFolder(panoptic=nested / "panoptic"), PIPE),
        lambda: list_pictures(nested / "images"),
    ):
        with pytest.raises(DatasetError, match=r"folders \(train\).*--recursive"):
            read()
    (nested / "data.yaml").write_text(
        f"taxonomy: cityscapes\nrecursive: true\nimages: {nested}/images\npanoptic_maps: {nested}/panoptic\n"
    )
    assert mamoe("check", nested).code == 0


def test_ambiguous_and_outside_keys_are_refused(nested):
    rows = ["aachen/f_1.png,x", "f_1,y", "bochum/day/g_2.png,z", "../f.png,x", "/f.png,x", "bochum\\f_1.jpg,x"]
    problems = "\n".join(indexed(nested, prompts=csv_of(nested / "p.csv", *rows), recursive=True).problems)
    for part in ("could be any of aachen/f_1.png, bochum/f_1.jpg", "'../f.png'", "'/f.png'", "separated by /"):
        assert part in problems
    (nested / "i.json").write_text('{"../f.png": {"1": "x"}}')
    problems = indexed(nested, instance_prompts=nested / "i.json", recursive=True).problems
    assert len(problems) == 1 and "without . and .." in problems[0]


def test_a_link_that_leads_back_is_refused(nested):
    (nested / "images/train/aachen/loop").symlink_to(nested / "images/train")
    assert any("is a link to a folder that holds it" in p for p in indexed(nested, recursive=True).problems)


def test_drawing_and_scoring_keep_the_folders(nested, tmp_path):
    jobs = list_jobs(LayoutFolder(panoptic=nested / "panoptic/train", recursive=True), PIPE)
    assert [job.name for job in jobs] == ["aachen/f_1.png", "bochum/f_1.png", "bochum/day/g_2.png"]
    names = [job.name for job in jobs]
    paths = fill(
        tmp_path / "drawn",
        names,
        [[0, 1, 2]],
        lambda batch: [Image.new("RGB", (8, 8), (i, 0, 0)) for i in batch],
        about={},
        processes=Processes(),
    )
    assert [Image.open(path).getpixel((0, 0))[0] for path in paths] == [0, 1, 2]
    row = folder_row(tmp_path / "drawn", recursive=True)
    real = PictureSet(
        label="real",
        paths=list_pictures(nested / "images/train", recursive=True),
        generation=None,
        root=nested / "images/train",
    )
    assert row.names == real.names == ("aachen/f_1", "bochum/f_1", "bochum/day/g_2")


# Sizes that cannot stand in one batch.


@pytest.mark.parametrize("command", ["train", "cache"])
def test_mixed_sizes_are_refused_before_the_model_is_looked_for(tmp_path, command):
    make_set(tmp_path, ["a.png", "b.png"])
    make_set(tmp_path, ["a.png"], split="val")
    Image.fromarray(QUADRANTS[:, :16]).save(tmp_path / "images/train/b.png")
    panoptic(16, 16).write(tmp_path / "panoptic/train/b.png")
    words = [
        "data=folder",
        f"data.root={tmp_path}",
        "data.prompts=null",
        "data.instance_prompts=null",
        "data.crop=null",
    ]
    outcome = mamoe(command, *words, "data.size=64", "taxonomy=cityscapes", f"model.path={tmp_path}/none")
    assert outcome.code == 2 and "64x128 (1 pictures), 64x64 (1 pictures)" in outcome.err
    assert "data.buckets=true" in outcome.err and "data.crop=random" in outcome.err
    alone = mamoe(command, *words, "data.size=64", "data.batch_size=1", f"model.path={tmp_path}/none")
    assert "one batch" not in alone.err and f"{tmp_path}/none" in alone.err


# Transforms.


FILLS = [None, 1, 2, 255, (7, 8, 9), [7, 8, 9], {"others": 2}, {tv_tensors.Image: (7, 8, 9)}, {"Image": [7, 8, 9]}]
TRANSFORMS = {
    "rotation": lambda fill: v2.RandomRotation((45, 45), fill=fill),
    "affine": lambda fill: v2.RandomAffine((30, 30), fill=fill),
    "perspective": lambda fill: v2.RandomPerspective(p=1, fill=fill),
    "elastic": lambda fill: v2.ElasticTransform(alpha=300.0, fill=fill),
    "pad": lambda fill: v2.Compose([v2.Pad(8, fill=fill), v2.CenterCrop((48, 48)), v2.Pad(8, fill=fill)]),
    "padding crop": lambda fill: v2.RandomCrop((64, 64), padding=16, fill=fill),
    "zoom out": lambda fill: v2.Compose([v2.RandomZoomOut(fill=fill, side_range=(1.5, 2), p=1), v2.Resize((64, 64))]),
    "apply": lambda fill: v2.RandomApply([v2.RandomRotation((45, 45), fill=fill)], p=1),
    "choice": lambda fill: v2.RandomChoice([v2.Compose([v2.RandomRotation((45, 45), fill=fill)])]),
}


@pytest.mark.parametrize("fill", FILLS, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_a_transform_uncovers_is_void_and_fill_is_the_pictures(name, fill):
    image = torch.full((3, 64, 64), 77, dtype=torch.uint8)
    planes = torch.full((3, 64, 64), 3, dtype=torch.uint8)
    transform = TRANSFORMS[name](fill)
    torch.manual_seed(0)
    picture, ids, condition, _ = Geometry(size=(64, 64), extra=[transform]).with_condition(image, planes, image, VOID)
    void = ids[2] == VOID
    assert void.any() and not ids[:2, void].any() and (ids[:, ~void] == 3).all()
    assert not condition[:, void].any() and (condition[:, ~void] == 77).all()
    filled = (
        {0 if fill is None else fill} if not isinstance(fill, tuple | list | dict) else {2} if "others" in fill else {7}
    )
    if name in ("rotation", "affine", "apply", "choice"):
        assert picture[0, void].unique().tolist() == sorted(filled)


def test_a_users_own_transform_that_fills_is_seen_through_as_well():
    def turn(image, planes):
        return tuple(v2.functional.rotate(pixels, 45.0, fill=[1.0]) for pixels in (image, planes))

    planes = torch.full((3, 64, 64), 3, dtype=torch.uint8)
    _, ids, _ = Geometry(size=(64, 64), extra=[turn])(planes, planes, VOID)
    assert ids[:, 0, 0].tolist() == [0, 0, VOID] and set(ids[2].unique().tolist()) == {3, VOID}


def test_a_fill_for_what_torchvision_does_not_know_is_named():
    with pytest.raises(ConfigError, match="'Map'; its keys are BoundingBoxes, Image"):
        Geometry(size=(64, 64), extra=[v2.RandomRotation((45, 45), fill={"Map": 3})])


@pytest.mark.filterwarnings("ignore:RandomErasing")
def test_erasing_covers_the_picture_and_leaves_the_map():
    planes = torch.full((3, 64, 64), 3, dtype=torch.uint8)
    picture, ids, _ = Geometry(size=(64, 64), extra=[v2.RandomErasing(p=1.0)])(planes, planes, VOID)
    assert (picture == 0).any() and (ids == 3).all()
