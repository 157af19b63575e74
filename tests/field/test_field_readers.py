"""What users' folders hold besides plain RGB files with matching names: read, refused, or left aside with a word."""

import json
import struct
import unicodedata
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from factories import mamoe
from inspecting import inspected
from mamoe.data.check.readings import reading_notes
from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import content_of, content_of_picture
from mamoe.data.folder.split import index_split, list_splits
from mamoe.data.geometry.joint import Geometry
from mamoe.data.reading.looks import look_at_picture
from mamoe.data.reading.pictures import picture_header, picture_size, read_picture
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.features.store import common_size, list_pictures, read_through
from mamoe.evaluation.protocol import PictureSet, picture_hash
from mamoe.evaluation.run import folder_row
from mamoe.machine.processes import Processes
from mamoe.sampling.filling import fill
from mamoe.sampling.folders import LayoutFolder, list_jobs
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
VOID = TAXONOMY.void_id
PIPE = SimpleNamespace(
    side_multiple=8,
    vae_scale_factor=8,
    settings=None,
    unet=SimpleNamespace(config={"in_channels": 4, "out_channels": 4}),
)  # of it a list of jobs needs no more
QUADRANTS = np.zeros((16, 32, 3), dtype=np.uint8)
QUADRANTS[:8, :16], QUADRANTS[:8, 16:], QUADRANTS[8:, :16], QUADRANTS[8:, 16:] = 20, 90, 160, 230
SHOWN = {  # what EXIF's orientations mean, after the specification: where row 0 and column 0 of the file are shown
    1: QUADRANTS,
    2: QUADRANTS[:, ::-1],
    3: QUADRANTS[::-1, ::-1],
    4: QUADRANTS[::-1],
    5: QUADRANTS.transpose(1, 0, 2),
    6: QUADRANTS.transpose(1, 0, 2)[:, ::-1],
    7: QUADRANTS.transpose(1, 0, 2)[::-1, ::-1],
    8: QUADRANTS.transpose(1, 0, 2)[::-1],
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def panoptic(height=16, width=32) -> PanopticMap:
    return PanopticMap(
        segment_id=np.ones((height, width), dtype=np.int32), class_id=np.zeros((height, width), np.uint8)
    )


def make_set(root, names, maps=None, split="train"):
    """Pictures of these names, with maps of these (by default of the same with .png)."""
    for name in names:
        path = root / "images" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(QUADRANTS).save(path)
    (root / "panoptic" / split).mkdir(parents=True, exist_ok=True)
    for name in maps if maps is not None else [f"{name.rsplit('.', 1)[0]}.png" for name in names]:
        path = root / "panoptic" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        panoptic().write(path)
    return root


def indexed(root, **changes):
    given = {"images": root / "images", "panoptic_maps": root / "panoptic", "split": "train"}
    return index_split(**{**given, "prompts": None, "instance_prompts": None, **changes})


def csv_of(path, *rows):
    path.write_text("img_name,prompt\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


# Orientation.


def said_of(*pictures):
    return reading_notes([(path, look_at_picture(path)) for path in pictures])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_pictures_stand_upright_whatever_exif_says(tmp_path, ending, orientation):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(QUADRANTS).save(path, exif=oriented(orientation), quality=95)
    picture, shown = read_picture(path), SHOWN[orientation]
    assert picture.shape == shown.shape and picture_size(path) == shown.shape[:2]
    assert np.abs(picture.astype(int) - shown).mean() < 4
    assert common_size({"a": [path]}) == shown.shape[:2] and read_through(path, None).shape == shown.shape
    assert bool(said_of(path)) == (orientation != 1)


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png")
    content, exif = (tmp_path / "a.png").read_bytes(), oriented(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = content.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:end] + chunk + content[end:])
    assert picture_size(tmp_path / "a.png") == (32, 16)
    assert np.array_equal(read_picture(tmp_path / "a.png"), SHOWN[6])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_a_picture(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05broken")
    assert np.array_equal(read_picture(tmp_path / "a.png"), QUADRANTS)


def test_a_turned_map_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 8, 3), dtype=np.uint8)).save(tmp_path / "m.png", exif=oriented(3))
    with pytest.raises(DatasetError, match=r"m\.png.*EXIF says orientation 3"):
        read_panoptic(tmp_path / "m.png")


def test_caches_know_how_a_picture_is_read_and_keep_what_they_have_of_others(tmp_path):
    plain, turned, clear = (tmp_path / f"{name}.png" for name in ("plain", "turned", "clear"))
    Image.fromarray(QUADRANTS).save(plain)
    Image.fromarray(QUADRANTS).save(turned, exif=oriented(8))
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(clear)
    assert content_of_picture(plain) == content_of(plain)
    for path in (turned, clear):
        assert content_of_picture(path) != content_of(path) and picture_hash(path) != picture_hash(plain)


# Transparency, frames, bits, formats.


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_put_on_black_and_said_once(tmp_path, mode):
    picture = Image.new("RGBA", (8, 4), (200, 200, 200, 255))
    picture.paste((200, 200, 200, 0), (0, 0, 4, 4))
    if mode == "RGB":
        picture = Image.new("RGB", (8, 4), (200, 200, 200))
        picture.paste((250, 0, 250), (0, 0, 4, 4))
        picture.save(tmp_path / "a.png", transparency=(250, 0, 250))
    else:
        (picture.quantize() if mode == "P" else picture.convert(mode)).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert not pixels[:, :4].any() and (np.abs(pixels[:, 4:].astype(int) - 200) < 3).all()
    Image.new("RGBA", (8, 4), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    (note,) = said_of(tmp_path / "a.png", tmp_path / "opaque.png")
    assert note == "1 pictures are transparent and put on black: a.png"


def test_of_several_frames_or_pages_the_first_is_read_with_a_word(tmp_path):
    first, second = Image.new("RGB", (8, 8), (10, 20, 30)), Image.new("RGB", (8, 8), "white")
    for name in ("a.webp", "b.tiff", "c.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert (
            read_picture(tmp_path / name)[0, 0].tolist() == [10, 20, 30] and picture_header(tmp_path / name).frames == 2
        )
    (note,) = said_of(*list_pictures(tmp_path))
    assert note.startswith("3 pictures have several frames or pages")


def test_sixteen_bits_per_colour_are_refused_in_pictures_too(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    for read in (read_picture, picture_size):
        with pytest.raises(DatasetError, match=r"RGB;16B.*8 bits"):
            read(path)


# Maps that are no panoptic PNG.


@pytest.mark.parametrize(
    ("picture", "form", "says"),
    [
        (Image.new("P", (4, 4)), "PNG", "palette PNG.*prepare camvid"),
        (Image.fromarray(np.full((4, 4), 26001, dtype=np.uint16)), "PNG", r"class \* 1000.*prepare cityscapes"),
        (Image.new("L", (4, 4)), "PNG", "one channel.*labelIds"),
        (Image.new("RGBA", (4, 4)), "PNG", "alpha channel.*without alpha"),
        (Image.new("RGB", (4, 4)), "JPEG", "Lossy formats change ids"),
        (Image.new("RGB", (4, 4)), "WEBP", "Lossy formats change ids"),
        (Image.new("RGB", (4, 4)), "TIFF", "Save it again as PNG"),
    ],
)
def test_a_map_of_another_kind_is_told_what_it_looks_like(tmp_path, picture, form, says):
    picture.save(tmp_path / "m.png", format=form)
    with pytest.raises(DatasetError, match=rf"m\.png must be an 8-bit RGB PNG.*{says}"):
        read_panoptic(tmp_path / "m.png")


@pytest.mark.parametrize(("ending", "says"), [("jpg", "Lossy"), ("tif", "Save it again as PNG")])
def test_maps_with_another_ending_are_explained_and_not_just_missing(tmp_path, ending, says):
    make_set(tmp_path, ["a.png"], maps=[])
    Image.fromarray(QUADRANTS).save(tmp_path / f"panoptic/train/a.{ending}")
    (problem,) = indexed(tmp_path).problems
    assert f"a.{ending} there is no 8-bit RGB PNG" in problem and says in problem
    with pytest.raises(DatasetError, match=says):
        list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train"), PIPE)


# Which files are data.


LITTER = (
    "._a.png",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".hidden.png",
    "__MACOSX/a.png",
    "@eaDir/a.png",
    ".t/a.png",
)


@pytest.mark.parametrize("recursive", [False, True])
def test_what_systems_leave_behind_is_no_data_for_any_reader(tmp_path, recursive):
    make_set(tmp_path, ["a.png"])
    (tmp_path / "shown/train").mkdir(parents=True)
    Image.fromarray(QUADRANTS).save(tmp_path / "shown/train/a.png")
    folders = [tmp_path / place / "train" for place in ("images", "panoptic", "shown")]
    for folder in (*folders, tmp_path / "images"):
        for name in LITTER:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"no picture")
    files = indexed(tmp_path, conditions=tmp_path / "shown", recursive=recursive)
    assert [sample.key for sample in files.samples] == ["a.png"] and not files.problems
    assert len(files.notes) == 1 and "no prompts CSV" in files.notes[0]
    assert list_splits(tmp_path / "images") == ["train"]
    assert [path.name for path in list_pictures(folders[0], recursive=recursive)] == ["a.png"]
    assert [job.name for job in list_jobs(LayoutFolder(panoptic=folders[1], recursive=recursive), PIPE)] == ["a.png"]


def test_capitals_in_endings_do_not_matter(tmp_path):
    make_set(tmp_path, ["a.JPG", "b.TIF", "c.Png"], maps=["a.PNG", "b.Png", "c.png"])
    files = indexed(tmp_path)
    assert not files.problems and [s.panoptic.name for s in files.samples] == ["a.PNG", "b.Png", "c.png"]
    assert [job.name for job in list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train"), PIPE)] == [
        "a.png",
        "b.png",
        "c.png",
    ]


def test_what_is_left_aside_is_counted_and_named(tmp_path):
    make_set(tmp_path, ["a.png", "b.png"], maps=["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "images/train/x.heic").touch()
    (tmp_path / "images/train/notes.txt").touch()
    (tmp_path / "data.yaml").write_text(
        f"taxonomy: cityscapes\nimages: {tmp_path}/images\npanoptic_maps: {tmp_path}/panoptic\n"
        f"prompts: {tmp_path}/p_{{split}}.csv\n"
    )
    csv_of(tmp_path / "p_train.csv", "a.png,a street", "b.png,")
    outcome = mamoe("check", tmp_path)
    assert outcome.code == 0
    for part in (
        "2 maps belong to no picture in",
        "c.png, d.png",
        "1 files are not read: x.heic; convert them",
        "1 files are not read: notes.txt",
        "1 pictures have an empty prompt: b.png",
    ):
        assert part in outcome.out


# Names.


@pytest.mark.parametrize(("picture", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_however_their_accents_are_written(tmp_path, picture, other):
    ours, theirs = (unicodedata.normalize(form, "straße_löwe_é") for form in (picture, other))
    make_set(tmp_path, [f"{ours}.png"], maps=[f"{theirs}.png"])
    prompts = csv_of(tmp_path / "p.csv", f"{theirs}.png,a street")
    (tmp_path / "i.json").write_text(json.dumps({theirs: {"1": "a road"}}))
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    assert not files.problems and files.samples[0].key == f"{ours}.png"
    assert files.samples[0].prompts.global_prompt == "a street" and files.samples[0].prompts.by_segment == {1: "a road"}
    make_set(tmp_path, [f"{theirs}.png"], maps=[])
    assert any("2 pictures are called" in problem for problem in indexed(tmp_path).problems)


def test_a_name_in_other_capitals_is_explained_once_per_file(tmp_path):
    make_set(tmp_path, ["A.jpg"], maps=["a.png"])
    prompts = csv_of(tmp_path / "p.csv", "a.jpg,a street")
    (tmp_path / "i.json").write_text('{"a.jpg": {"1": "x"}}')
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    assert len(files.problems) == 3 and all("differs in capitals" in problem for problem in files.problems)
    assert not [note for note in files.notes if "no picture" in note]


def test_spaces_around_a_key_are_explained(tmp_path):
    make_set(tmp_path, ["a.png", "b.png"])
    problems = indexed(tmp_path, prompts=csv_of(tmp_path / "p.csv", "a.png ,x", " b.png,y")).problems
    assert len(problems) == 2 and all("differs in capitals or spaces" in problem for problem in problems)


def test_keys_are_file_names_or_names_without_ending_for_every_reader(tmp_path):
    make_set(tmp_path, ["a.jpg", "b.1.png", "c.png", "d.jpg"])
    prompts = csv_of(tmp_path / "p.csv", "a,one", "b.1,two", "c.png,three", "d.png,four")
    (tmp_path / "i.json").write_text('{"a": {"1": "x"}, "b.1": {"1": "y"}, "c.png": {"1": "z"}}')
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    jobs = list_jobs(
        LayoutFolder(panoptic=tmp_path / "panoptic/train", prompts=prompts, instance_prompts=tmp_path / "i.json"), PIPE
    )
    assert not files.problems
    for found in ([sample.prompts for sample in files.samples], [job.prompts for job in jobs]):
        assert {p.global_prompt: dict(p.by_segment) for p in found} == {
            "one": {1: "x"}, "two": {1: "y"}, "three": {1: "z"}, "four": {}
        }  # fmt: skip
    prompts = csv_of(tmp_path / "p.csv", "a,one", "a.jpg,again", "b.1.png,x", "c,x", "d,x")
    assert "already named by the key 'a'" in indexed(tmp_path, prompts=prompts).problems[0]
    with pytest.raises(DatasetError, match="already named by the key 'a'"):
        list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train", prompts=prompts), PIPE)


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
