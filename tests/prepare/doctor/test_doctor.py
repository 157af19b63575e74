"""`mamoe check` as a doctor: planted faults are named with their places, sound sets raise no alarm."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import broken_maps  # noqa: F401
import broken_pictures  # noqa: F401
import broken_texts  # noqa: F401
import numpy as np
import pytest
import torch
from broken_sets import FAULTS, a_thing, panoptic, picture, prompt_of_line, table, with_entries, with_line
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from PIL import Image

from factories import drawn_data, mamoe, tiny_base
from mamoe.commands.check.model import model_of
from mamoe.conditioning.experts import route_hard
from mamoe.data.reading.looks import look_at_map_closely, look_at_picture_closely
from mamoe.data.reading.pictures import read_picture
from mamoe.methods.registry import method_of
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.prepare.check import check_folder
from mamoe.prepare.doctor.cells import CellCounter, CellCounts
from mamoe.prepare.doctor.examine import examine
from mamoe.prepare.doctor.pixels import PairLook, look_closely
from mamoe.prepare.doctor.twins import Print, find_twins
from mamoe.prepare.importers import IMPORTERS
from mamoe.prepare.record import groups_of
from mamoe.storage.hashing import short_file_hash
from mamoe.vocabulary.panoptic import read_panoptic, read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy
from small_pixart_base import write_alpha_base, write_pixart_base

SCENES = Taxonomy.load("scenes")
SHARED = Path(__file__).resolve().parents[4] / "shared/data"
NEEDS_REAL = pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="the photographs are not here")


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("clean") / "data", {"train": 8, "val": 2}, height=128, width=256)


@pytest.fixture
def data(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def test_a_clean_set_gives_no_finding(clean, scenes):
    assert examine(clean).findings == () and examine(scenes).findings == ()


def test_processes_find_what_threads_find(clean, data, monkeypatch):
    # A wrong map is in another place than the sound ones.
    (data / "panoptic/train/0003.png").write_bytes(b"")
    whole, broken = examine(clean), examine(data)
    monkeypatch.setattr("mamoe.data.check.split._LEAST", 2)
    monkeypatch.setattr("mamoe.data.check.split.usable_cores", lambda: 2)
    shared, shared_broken = examine(clean), examine(data)
    assert shared.loads == whole.loads and shared.findings == () and shared.instances == whole.instances
    assert shared_broken.findings == broken.findings != ()


def test_there_are_more_than_fifty_faults():
    assert len(FAULTS) >= 50


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_place(data, name):
    words, plant = FAULTS[name]
    where = plant(data)
    findings = [finding for finding in examine(data).findings if words in finding.text]
    assert findings, [finding.text for finding in examine(data).findings]
    places = [(one.severity.value, one.file, one.line, one.segment, one.position) for one in findings]
    wanted = (where.severity, where.file, where.line, where.segment, where.position)
    assert any(all(w in (None, got) for w, got in zip(wanted, place, strict=True)) for place in places), places


@pytest.mark.real
@NEEDS_REAL
@pytest.mark.parametrize("kind", ["cityscapes", "camvid", "coco"])
def test_real_sets_raise_no_alarm(tmp_path, kind):
    IMPORTERS[kind](SHARED / {"coco": "coco_panoptic"}.get(kind, kind), tmp_path / "out", None)
    findings = examine(tmp_path / "out", model=model_of(str(SHARED / "clip_tokenizer"))).findings
    assert [one for one in findings if one.severity != "note"] == []
    assert {one.kind for one in findings} <= {"no split"}
    moved = sorted((tmp_path / "out/panoptic").rglob("*.png"))
    for path in moved:
        rgb = read_panoptic_rgb(path)
        Image.fromarray(np.roll(rgb, (rgb.shape[0] // 16, rgb.shape[1] // 16), (0, 1))).save(path)
    shifted = [one for one in examine(tmp_path / "out").findings if one.kind == "shifted map"]
    assert len(shifted) >= 0.6 * len(moved)  # of CamVid's all; two of Cityscapes' six have few borders in reach


# What is measured


def close(image: Path, path: Path) -> PairLook:
    picture_, map_ = look_at_picture_closely(image), look_at_map_closely(path)
    return look_closely(picture_, map_, frozenset(), CellCounter(SCENES), lambda height, width: (height, width))


def test_a_shift_is_measured(data):
    path = panoptic(data)
    Image.fromarray(np.roll(read_panoptic_rgb(path), (6, -12), (0, 1))).save(path)
    look = close(picture(data), path)
    assert look.offset is not None and abs(look.offset.down + 6) <= 1 and abs(look.offset.right - 12) <= 1
    assert "up" in str(look.offset) and "right" in str(look.offset)


def test_experts_get_the_cells_that_routing_gives_them(data):
    """On a map whose areas are made of samples, by counting all pixels and the model's own routing."""
    generator = np.random.default_rng(0)
    classes = generator.choice([0, 2, 11, 13, 19], (32, 64)).repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    rgb = np.stack([np.zeros_like(classes), np.zeros_like(classes), classes], axis=-1)
    Image.fromarray(rgb).save(panoptic(data))
    Image.new("RGB", (128, 64)).save(picture(data))
    look = close(picture(data), panoptic(data))
    counts = CellCounts()
    counts.add_cells(look.cells)
    for load in counts.loads(CellCounter(SCENES).groupings):
        expert = SCENES.grouping(load.name).expert_of_class[classes]
        share = np.stack([(expert == e).reshape(8, 8, 16, 8).mean(axis=(1, 3)) for e in range(len(load.experts))])
        (routing,) = route_hard([torch.from_numpy(share.astype(np.float32))[None]])
        assert np.allclose(load.share, np.diff(routing.offsets.numpy(), prepend=0) / 128), load.name
    assert counts.of_class.sum(axis=1).tolist() == [128, 32, 8, 2]


def test_instances_below_half_a_cell_vanish():
    counts = CellCounts()
    counts.add_instances({1: (13, 31.0), 2: (13, 32.0), 3: (11, 127.0), 4: (11, 5000.0)})
    assert counts.vanishing[:, 13].tolist() == [1, 2, 2, 2] and counts.vanishing[:, 11].tolist() == [0, 1, 1, 1]


def test_twins_survive_a_small_change_and_strangers_are_none():
    generator = np.random.default_rng(0)
    thumbnails = generator.integers(0, 256, (40, 32, 32), dtype=np.uint8)
    noisy = np.clip(thumbnails.astype(int) + generator.integers(-2, 3, thumbnails.shape), 0, 255).astype(np.uint8)
    train = [Print(image=Path(f"a{i}"), split="train", thumbnail=t) for i, t in enumerate(thumbnails)]
    val = [Print(image=Path(f"b{i}"), split="val", thumbnail=noisy[i]) for i in (3, 17)]
    assert [(str(t.image), str(t.other), t.same_bytes) for t in find_twins([*train, *val])] == [
        ("a3", "b3", False),
        ("a17", "b17", False),
    ]
    assert find_twins(train) == []
    brighter = [np.clip(thumbnails[i] * 0.6 + shift, 0, 255).astype(np.uint8) for i, shift in ((3, 90), (17, 0))]
    val = [Print(image=Path(f"b{i}"), split="val", thumbnail=t) for i, t in enumerate(brighter)]
    assert [(str(t.image), str(t.other)) for t in find_twins([*train, *val])] == [("a3", "b0"), ("a17", "b1")]


@pytest.mark.real
@NEEDS_REAL
def test_tokens_are_counted_as_the_text_encoder_does(data):
    model = model_of(str(SHARED / "clip_tokenizer"))
    assert model.counter.count("a photo of a cat") == 7
    with_line(data, 3, prompt_of_line("cat " * 75))  # fits with begin and end
    with_line(data, 4, prompt_of_line("cat " * 76))
    (found,) = examine(data, model=model).findings
    assert found.line == 4 and "78 tokens, 1 over the 77" in found.text


# What is written


def test_the_table_the_json_and_the_page(data, tmp_path):
    with_line(data, 3, prompt_of_line('"""<script>alert(1)</script>"""'))
    before = sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*"))
    rgb = read_panoptic_rgb(panoptic(data)).copy()
    rgb[40:44, 60:68] = (0, 0, 77)
    out = tmp_path / "out"
    assert mamoe("check", data, "--out", out).code == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*")) == before  # nothing is written there
    Image.fromarray(rgb).save(panoptic(data))
    outcome = mamoe("check", data, "--out", out)
    assert outcome.code == 3 and "instances below 1/2 cell" in outcome.out and "balance" in outcome.out
    said = json.loads((out / "check.json").read_text(encoding="utf-8"))
    first = said["findings"][0]
    assert not said["trainable"] and first["kind"] == "unknown class" and first["position"] == [40, 60]
    assert first["file"] == str(panoptic(data)) and said["splits"]["train"]["pictures"] == 8
    assert np.isclose(sum(said["cells"]["8"].values()), 1) and said["disk"][0]["bytes"] == 10 * 16 * 32 * 32
    page = (out / "check.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "A training would fail" in page
    assert page.count("data:image/jpeg") >= 3 and "http" not in page


def test_a_mended_copy(data, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.open(picture(data, 1)).rotate(180)
    picture(data, 1).unlink()
    turned.save(data / "images/train/scene_000001.jpg", exif=exif, quality=95)
    rgba = Image.open(picture(data, 2)).convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 50, 50))
    rgba.save(picture(data, 2))
    classes = read_panoptic_rgb(panoptic(data, 3))[..., 2]
    Image.fromarray(classes).convert("P").save(panoptic(data, 3))
    Image.open(panoptic(data, 4)).convert("RGBA").save(panoptic(data, 4))
    picture(data, 0, "val").write_bytes(picture(data, 5).read_bytes())
    panoptic(data, 0, "val").write_bytes(panoptic(data, 5).read_bytes())
    picture(data, 7).write_bytes(picture(data, 6).read_bytes())
    with_entries(data, lambda entries: entries.pop(panoptic(data, 3).name))
    book = data / "instance_prompts_val.json"
    book.write_text("{}")
    with table(data).open("a") as file:
        file.write("nowhere.png,a street\n")
    group, klass = a_thing(panoptic(data, 2))
    said = {"files": {f"train/{picture(data, 2).name}": {"groups": [group]}, "train/gone.png": {"groups": [1]}}}
    (data / "dataset.json").write_text(json.dumps(said))
    assert mamoe("check", data).code == 3
    out = tmp_path / "mended"
    outcome = mamoe("check", data, "--fix", out)
    assert outcome.code == 0, outcome.err
    for words in ("1 pictures stored upright", "put on black", "2 maps became panoptic PNGs", "2 pictures left out"):
        assert words in outcome.out
    report = check_folder(out)
    assert report.problems == () and report.splits["train"].images == 6 and report.splits["val"].images == 2
    assert (read_panoptic(panoptic(out, 3)).class_id == classes).all()
    assert np.array_equal(read_picture(picture(out, 1)), read_picture(data / "images/train/scene_000001.jpg"))
    contents = json.loads((out / "dataset.json").read_text())
    assert groups_of(out)[f"train/{picture(out, 2).name}"] == {group}
    assert contents["splits"]["train"]["pictures"] == 6 and contents["splits"]["train"]["groups"] == 1
    pixels, told = report.splits["train"].pixels, contents["splits"]["train"]["pixels"]
    assert sum(told.values()) == pixels.sum() and told[SCENES.classes[klass].name] == pixels[klass]
    assert contents["files"][f"train/{picture(out, 2).name}"]["picture"] == short_file_hash(picture(out, 2))
    assert [one.kind for one in examine(out).findings if "splits" in one.text or "twice" in one.text] == []
    again = mamoe("check", data, "--fix", out)
    assert again.code == 2 and "not empty" in again.err


def test_no_copy_is_made_in_what_it_copies(data):
    """It would be a part of the data set itself at the next look."""
    for inside in (data, data / "mended", data / "images/train/mended"):
        outcome = mamoe("check", data, "--fix", inside)
        assert outcome.code == 2 and "name a folder beside it" in outcome.err and not (inside / "mended").exists()


def _cut_off(path: Path) -> None:
    path.write_text(path.read_text()[:-30])


def _without_a_row(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _with_an_open_quote(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1] + ',"x', *lines[2:]]) + "\n")


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("instance_prompts_val.json", _cut_off, "instance_prompts_val.json is not valid JSON"),
        ("prompts_train.csv", _without_a_row, "scene_000007.png has no prompt"),
        ("prompts_train.csv", _with_an_open_quote, "not valid CSV"),
    ],
)
def test_a_faulty_text_stays_faulty_in_the_mended_copy(data, tmp_path, name, spoil, says):
    """What it says would be lost, and the copy looked sound, were it written anew from what could be read."""
    spoil(data / name)
    outcome = mamoe("check", data, "--fix", tmp_path / "mended")
    assert outcome.code == 3, outcome.out
    assert any(says in problem for problem in check_folder(tmp_path / "mended").problems)
    if spoil is not _without_a_row:
        assert (tmp_path / "mended" / name).read_bytes() == (data / name).read_bytes()
        assert "1 text files copied with their faults" in outcome.out


def test_a_check_loads_no_torch(clean):
    run = f"import sys; from mamoe.cli import app; app({['check', str(clean)]!r}, standalone_mode=False)"
    asked = f"{run}; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "False"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_room_for_checkpoints_is_that_of_the_method(clean, tmp_path, method):
    base = tiny_base(tmp_path / "base")
    network = UNet2DConditionModel.from_pretrained(base, subfolder="unet", low_cpu_mem_usage=False)
    unet = MaMoEUNet2DConditionModel.from_unet(network, num_experts=2)
    trained = method_of({"name": method}).prepare(unet, seed=0)
    whole = sum(weight.numel() for weight in trained.parameters())
    learns = sum(weight.numel() for weight in trained.parameters() if weight.requires_grad)
    (need,) = [one for one in examine(clean, model=model_of(str(base), method)).needs if one.what == "checkpoints"]
    assert need.bytes == 4 * 4 * (2 * (learns if method == "lora" else whole) + 2 * learns)
    assert f"method={method} with 2 experts" in need.how
    assert (learns == whole) == (method == "full")


def test_a_transformer_has_t5s_limit_and_its_own_weights(clean, tmp_path):
    sigma, alpha = write_pixart_base(tmp_path / "sigma"), write_alpha_base(tmp_path / "alpha")
    assert model_of(str(sigma)).counter.limit == 300 and model_of(str(alpha)).counter.limit == 120
    assert model_of(str(sigma)).counter.count("a car") == len("a car") + 2  # a beginning space and the end
    network = PixArtTransformer2DModel.from_pretrained(sigma, subfolder="transformer", low_cpu_mem_usage=False)
    steered = MaMoEPixArtTransformer2DModel.from_transformer(network, num_experts=2)
    adapted = method_of({"name": "lora", "conv": False}).prepare(steered, seed=0)
    learns = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert model_of(str(sigma), "lora").weights(2).trained == learns
    outcome = mamoe("check", clean, "--model", sigma, "--method", "decoder")
    assert outcome.code == 2 and "no such part" in outcome.err


def test_an_unknown_method_is_refused(clean, tmp_path):
    outcome = mamoe("check", clean, "--model", tiny_base(tmp_path / "base"), "--method", "ful")
    assert outcome.code == 2 and "no method 'ful'" in outcome.err and "lora_experts" in outcome.err
