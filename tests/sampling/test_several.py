"""Several pictures of a map, variants, single instances, formats: what a sampling job is asked for beyond one each."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from factories import mamoe
from mamoe.data.folder.split import SampleFiles
from mamoe.errors import ConfigError, DatasetError, MamoeError
from mamoe.evaluation.run import drawn_otherwise, folder_row, layout_of
from mamoe.randomness import derive_seed
from mamoe.sampling.editing import weights_of
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.folders import sample_folder
from mamoe.sampling.jobs import Editing, LayoutFolder, list_jobs
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import key_of
from mamoe.sampling.schedulers import scheduler_named
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic
from mamoe.vocabulary.prompts import RegionPrompts

HOW = Drawing(steps=2, batch_size=2)


@pytest.fixture
def layouts(tmp_path, make_map) -> LayoutFolder:
    (tmp_path / "maps").mkdir()
    for seed in (1, 2):
        make_map(seed).write(tmp_path / "maps" / f"town_{seed}.png")
    return LayoutFolder(panoptic=tmp_path / "maps")


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def record(path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_several_pictures_of_a_map(pipe, layouts, tmp_path):
    one = sample_folder(pipe, layouts, tmp_path / "one", HOW)
    three = sample_folder(pipe, replace(layouts, count=3), tmp_path / "three", HOW)
    assert [path.name for path in three.pictures] == [f"town_{m}_{i}.png" for m in (1, 2) for i in range(3)]
    key = key_of("town_1.png")
    seeds = [derive_seed(0, "sample", key), derive_seed(0, "sample", key, 1), derive_seed(0, "sample", key, 2)]
    assert [record(path)["seed"] for path in three.pictures[:3]] == seeds
    assert [record(path)["layout"] for path in three.pictures[::3]] == ["town_1.png", "town_2.png"]
    # The first of several is the one there is without the others; the others are others.
    assert np.abs(read(three.pictures[0]) - read(one.pictures[0])).max() <= 1
    assert np.abs(read(three.pictures[0]) - read(three.pictures[1])).max() > 2
    # Two first and a third later are the three at once.
    out = tmp_path / "grown"
    sample_folder(pipe, replace(layouts, count=2), out, HOW)
    assert sample_folder(pipe, replace(layouts, count=3), out, HOW).drawn == 2
    for path in three.pictures:
        assert np.abs(read(path) - read(out / path.name)).max() <= 1


def test_variants_are_the_same_street_in_other_words(pipe, layouts, tmp_path):
    (tmp_path / "p.csv").write_text("img_name,prompt\ntown_1.png,a street\ntown_2.png,\n")
    (tmp_path / "vary.csv").write_text('variant,prompt\nnight,"at night, lamps"\nsnow,in snow\n')
    asked = replace(layouts, prompts=tmp_path / "p.csv", vary=tmp_path / "vary.csv")
    result = sample_folder(pipe, asked, tmp_path / "out", HOW)
    names = ["town_1_night", "town_1_snow", "town_2_night", "town_2_snow"]
    assert [path.stem for path in result.pictures] == names
    texts = [record(path)["prompt"] for path in result.pictures]
    assert texts == ["a street, at night, lamps", "a street, in snow", "at night, lamps", "in snow"]
    assert record(result.pictures[0])["seed"] == record(result.pictures[1])["seed"]
    assert np.abs(read(result.pictures[0]) - read(result.pictures[1])).max() > 0
    twice = replace(asked, count=2)
    assert [job.name for job in list_jobs(twice, pipe)][:3] == [
        "town_1_night_0.png",
        "town_1_night_1.png",
        "town_1_snow_0.png",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,prompt\na,b\n", "header must be variant,prompt, got 'name,prompt'"),
        ("variant,prompt\n", "names no variants"),
        ("variant,prompt\n../x,b\n", "letters, digits and dashes, got '../x'"),
        ("variant,prompt\na,b\na,c\n", "'a' is there already"),
        ("variant,prompt\nnight,b\nNight,c\n", "'Night' is there already"),
        ("variant,prompt\na, \n", "the prompt of 'a' is empty"),
        ("variant,prompt\na,b,c\n", "got 3 cells"),
    ],
)
def test_variants_nobody_can_mean(pipe, layouts, tmp_path, text, says):
    (tmp_path / "vary.csv").write_text(text)
    with pytest.raises(DatasetError, match=says):
        list_jobs(replace(layouts, vary=tmp_path / "vary.csv"), pipe)


def test_variants_that_a_model_does_not_read_are_said_to_be_alike(pipe, layouts, tmp_path):
    (tmp_path / "vary.csv").write_text("variant,prompt\nnight,at night\n")
    deaf = replace(pipe.settings, global_prompt=False)
    unread = LayoutPipeline(**{**pipe.components, "layout": deaf.to_dict()})
    unread.set_progress_bar_config(disable=True)
    heard = []
    sample_folder(unread, replace(layouts, vary=tmp_path / "vary.csv"), tmp_path / "out", HOW, warn=heard.append)
    assert any("Variants of a map are all alike" in line for line in heard)


def test_more_steps_than_there_are_leave_no_folder(pipe, layouts, tmp_path):
    with pytest.raises(MamoeError, match=r"num_inference_steps must lie in 1\.\.1000, got 1001"):
        sample_folder(pipe, layouts, tmp_path / "out", replace(HOW, steps=1001))
    assert not (tmp_path / "out").exists()


def test_prompts_of_segments_that_are_gone_at_the_pictures_size_are_said(pipe, layouts, tmp_path):
    (tmp_path / "prompts.json").write_text('{"town_1.png": {"7": "a red car", "300": "a person"}}')
    asked = replace(layouts, instance_prompts=tmp_path / "prompts.json")
    heard = []
    sample_folder(pipe, asked, tmp_path / "whole", HOW, warn=heard.append)
    assert heard == []
    sample_folder(pipe, replace(asked, size=(1, 1)), tmp_path / "small", HOW, warn=heard.append)
    assert any("instance prompts have no effect: their segments are too small" in line for line in heard)


# Whose picture it is, for `mamoe evaluate`.


def test_a_picture_is_known_as_its_maps(pipe, layouts, tmp_path):
    result = sample_folder(pipe, replace(layouts, count=2), tmp_path / "out", HOW)
    known = {"town_1", "town_2", "town_1_0"}
    row = folder_row(tmp_path / "out")
    found = [layout_of(path, name, known) for path, name in zip(row.paths, row.names, strict=True)]
    assert found == ["town_1", "town_1", "town_2", "town_2"]  # records speak, also where a map has the very name
    assert row.layout_numbers == (0, 0, 1, 1) and row.spread(2).layout_names == ("town_1", "town_2")
    for path in result.pictures:
        path.with_suffix(".json").unlink()
    found = [layout_of(path, path.stem, {"town_1", "town_2"}) for path in result.pictures]
    assert found == ["town_1", "town_1", "town_2", "town_2"]
    assert layout_of(tmp_path / "x_1.png", "x_1", known) is None


def test_pictures_drawn_of_something_else_are_said(pipe, layouts, tmp_path):
    """Scored against prompts and maps that they never saw, as their records know."""
    (tmp_path / "i.json").write_text(json.dumps({"town_1.png": {"7": "a blue car"}}))
    asked = replace(layouts, instance_prompts=tmp_path / "i.json")
    sample_folder(pipe, asked, tmp_path / "out", replace(HOW, steps=1))

    def sample(number: int, by_segment: dict, panoptic) -> SampleFiles:
        prompts = RegionPrompts(by_segment=by_segment)
        return SampleFiles(key=f"town_{number}.png", image=panoptic, panoptic=panoptic, prompts=prompts)

    maps = [layouts.panoptic / f"town_{number}.png" for number in (1, 2)]
    row = folder_row(tmp_path / "out")
    same = {"town_1": sample(1, {7: "a blue car", 9: "gone"}, maps[0]), "town_2": sample(2, {}, maps[1])}
    assert drawn_otherwise(row, same) == []
    other = {"town_1": sample(1, {7: "a red car"}, maps[1]), "town_2": sample(2, {7: "a car"}, maps[1])}
    first, second = drawn_otherwise(row, other)
    assert first.startswith("1 of 2 pictures were drawn from other files of maps")
    assert second.startswith("2 of 2 pictures were drawn with other instance prompts")


def test_pictures_of_two_models_are_no_row(pipe, layouts, tmp_path):
    """One job and then, into the same folder, another: all of it was scored as if one model had drawn it."""
    sample_folder(pipe, layouts, tmp_path / "out", replace(HOW, steps=1))
    other = pipe.with_unet(copy.deepcopy(pipe.unet).to(torch.bfloat16))
    sample_folder(other, replace(layouts, count=2, negative_prompt="fog"), tmp_path / "out", replace(HOW, steps=1))
    with pytest.raises(DatasetError, match="drawn with different model_hash, negative_prompt"):
        folder_row(tmp_path / "out")


# Formats, schedulers, guidance.


def test_jpeg_and_png_are_the_same_pictures(pipe, layouts, tmp_path):
    png = sample_folder(pipe, layouts, tmp_path / "png", HOW)
    jpeg = sample_folder(pipe, replace(layouts, jpeg=True), tmp_path / "jpeg", HOW)
    assert [path.name for path in jpeg.pictures] == ["town_1.jpg", "town_2.jpg"]
    with Image.open(jpeg.pictures[0]) as picture:
        assert picture.format == "JPEG"
    assert record(png.pictures[0]) == record(jpeg.pictures[0])
    assert np.abs(read(png.pictures[0]) - read(jpeg.pictures[0])).mean() < 6
    assert sample_folder(pipe, replace(layouts, jpeg=True), tmp_path / "jpeg", HOW).drawn == 0


def test_a_picture_in_another_format_keeps_its_record(pipe, layouts, tmp_path):
    """A PNG and a JPEG of one name would share a record, which can be right for one of them only."""
    out = tmp_path / "out"
    png = sample_folder(pipe, layouts, out, HOW).pictures[0]
    before = record(png)
    with pytest.raises(DatasetError, match=r"town_1\.png is there, and town_1\.json is its record"):
        sample_folder(pipe, replace(layouts, jpeg=True), out, replace(HOW, seed=1))
    assert record(png) == before and not list(out.glob("*.jpg"))


def test_a_json_of_somebody_else_stays(pipe, layouts, tmp_path):
    (tmp_path / "out").mkdir()
    labels = tmp_path / "out/town_2.json"
    labels.write_text('{"shapes": []}')
    with pytest.raises(DatasetError, match=r"town_2\.json is no record of such a job"):
        sample_folder(pipe, layouts, tmp_path / "out", HOW)
    assert labels.read_text() == '{"shapes": []}' and len(list(labels.parent.iterdir())) == 1


@pytest.mark.parametrize("read", ["maps", "images", "conditions"])
def test_no_job_draws_into_what_it_reads(pipe, layouts, tmp_path, read):
    """Names with numbers meet no file there, but the next job would take the pictures for maps."""
    (tmp_path / "images").mkdir()
    (tmp_path / "conditions").mkdir()
    editing = Editing(images=tmp_path / "images", instances=(7,))
    asked = replace(layouts, count=2, editing=editing, conditions=tmp_path / "conditions")
    with pytest.raises(DatasetError, match=f"{read} lies among the .* choose another"):
        sample_folder(pipe, asked, tmp_path / read, HOW)
    with pytest.raises(DatasetError, match="lies among the maps"):
        sample_folder(pipe, replace(layouts, panoptic=layouts.panoptic / "town_1.png", jpeg=True), tmp_path / "maps")


def test_pictures_of_an_earlier_job_are_said(pipe, layouts, tmp_path):
    out, told = tmp_path / "out", []
    sample_folder(pipe, layouts, out, replace(HOW, steps=1), warn=told.append)
    sample_folder(pipe, layouts, out, replace(HOW, steps=1), warn=told.append)
    assert told == []
    sample_folder(pipe, replace(layouts, count=2), out, replace(HOW, steps=1), warn=told.append)
    assert told == [f"{out} holds 2 pictures besides those of this job, such as town_1.png."]


def test_negative_prompt_and_rescale_are_part_of_the_record(pipe, layouts, tmp_path):
    out = tmp_path / "out"
    plain = sample_folder(pipe, layouts, tmp_path / "plain", HOW)
    result = sample_folder(pipe, replace(layouts, negative_prompt="fog"), out, replace(HOW, rescale=0.2))
    made = record(result.pictures[0])
    assert made["negative_prompt"] == "fog" and made["guidance_rescale"] == 0.2
    assert np.abs(read(result.pictures[0]) - read(plain.pictures[0])).max() > 0
    with pytest.raises(DatasetError, match="drawn with another negative_prompt, guidance_rescale"):
        sample_folder(pipe, layouts, out, HOW)


def test_when_regions_bind_and_guidance_on_the_layout(pipe, make_pipe, layouts, make_map, tmp_path, monkeypatch):
    """From the command line: the pictures that Python draws with the same words, and records that say so."""
    monkeypatch.setattr(LayoutPipeline, "from_pretrained", lambda *_, **__: pipe)
    (tmp_path / "i.json").write_text(json.dumps({"town_1.png": {"7": "a blue car"}}))
    words = ["sample", tmp_path, "--panoptic", layouts.panoptic / "town_1.png", "--steps", "4", "--device", "cpu"]
    words += ["--instance-prompts", tmp_path / "i.json"]
    options = {"regions_from": 0.25, "regions_until": 0.75, "guidance_layout": 6.0}
    flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    outcome = mamoe(*words, *flags, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    made = record(tmp_path / "out/town_1.png")
    assert {key: made[key] for key in options} == options and made["mode"] == "cfg"
    own = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(made["seed"])}
    wanted = pipe("", make_map(1), {7: "a blue car"}, **own, **options).images[0]
    assert np.abs(read(tmp_path / "out/town_1.png") - np.asarray(wanted).astype(int)).max() <= 1
    assert mamoe(*words, "--out", tmp_path / "plain").code == 0
    assert not record(tmp_path / "plain/town_1.png").keys() & options.keys()
    assert np.abs(read(tmp_path / "out/town_1.png") - read(tmp_path / "plain/town_1.png")).max() > 0
    for further, says in (
        (["--out", tmp_path / "out"], "drawn with another guidance_layout, regions_from, regions_until"),
        (
            ["--regions-from", "0.8", "--regions-until", "0.3", "--out", tmp_path / "no"],
            "the first not behind the second",
        ),
    ):
        refused = mamoe(*words, *further)
        assert refused.code in (2, 3) and says in " ".join(refused.err.split()), refused.err
    with pytest.raises(ConfigError, match="knows no layout: leave out guidance_layout"):
        sample_folder(make_pipe(layout=False), layouts, tmp_path / "no", replace(HOW, guidance_layout=2.0))
    assert not (tmp_path / "no").exists()


def test_a_model_without_regions_binds_nothing(pipe, layouts, make_map, tmp_path):
    pipe.settings, told = replace(pipe.settings, region_attention=False), []
    sample_folder(pipe, layouts, tmp_path / "out", replace(HOW, steps=1, regions_from=0.5), warn=told.append)
    with pytest.warns(WithoutEffect, match="When prompts of segments bind has no effect"):
        pipe("", make_map(1), num_inference_steps=1, regions_until=0.5)
    assert [line.split(":")[0] for line in told] == ["When prompts of segments bind has no effect"]


def test_schedulers_by_name(make_pipe):
    plain, zero_snr = make_pipe(zero_snr=False).scheduler, make_pipe().scheduler
    for name in ("euler-discrete", "EulerDiscrete", "EulerDiscreteScheduler", "euler_discrete"):
        assert isinstance(scheduler_named(name, plain), EulerDiscreteScheduler)
    assert scheduler_named("pndm", plain).config["skip_prk_steps"]
    with pytest.raises(ConfigError, match=r"no scheduler 'euler' for this model; there are .*DDIM.*UniPCMultistep"):
        scheduler_named("euler", plain)
    with pytest.raises(ConfigError, match="zero-terminal-SNR schedule, which PNDMScheduler does not know"):
        scheduler_named("pndm", zero_snr)
    with pytest.raises(ConfigError, match="EDMEulerScheduler does not walk the noise schedule of Stable Diffusion"):
        scheduler_named("edm-euler", plain)


# One instance anew.


def test_only_an_instance_is_drawn_anew(pipe, layouts, make_map, tmp_path, monkeypatch):
    """From the command line: a picture, then its car in another colour."""
    monkeypatch.setattr(LayoutPipeline, "from_pretrained", lambda *_, **__: pipe)
    words = ["sample", tmp_path, "--panoptic", layouts.panoptic / "town_1.png", "--steps", "2", "--device", "cpu"]
    first = mamoe(*words, "--out", tmp_path / "first")
    assert first.code == 0, first.err
    (tmp_path / "i.json").write_text(json.dumps({"town_1.png": {"7": "a blue car"}}))
    words += ["--image", tmp_path / "first", "--instance-prompts", tmp_path / "i.json", "--seed", "3"]
    outcome = mamoe(*words, "--only-instance", "7", "--border", "4", "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    before, after = read(tmp_path / "first/town_1.png"), read(tmp_path / "again/town_1.png")
    car = read_panoptic(layouts.panoptic / "town_1.png").segment_id == 7
    kept = weights_of(torch.from_numpy(car)[None], 4)[0, 0].numpy() == 0
    assert np.array_equal(before[kept], after[kept]) and np.abs(before - after)[car].mean() > 1
    made = record(tmp_path / "again/town_1.png")
    assert made["only_instances"] == [7] and made["border"] == 4 and made["strength"] == 1.0 and made["image_hash"]
    for further, says in (
        (["--only-instance", "9"], "no segment 9 to change; there are 1, 2, 7, 300"),
        ([], "--image and --only-instance belong together"),
        (["--only-instance", "7", "--jpeg"], "leave --jpeg out"),
    ):
        refused = mamoe(*words, *further, "--out", tmp_path / "no")
        assert refused.code in (2, 3) and says in refused.err and not (tmp_path / "no").exists()


def test_pictures_to_change_have_their_maps_names_and_sizes(pipe, layouts, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 32)).save(tmp_path / "images/town_2.png")
    editing = Editing(images=tmp_path / "images", instances=(7,))
    with pytest.raises(DatasetError, match=r"(?s)town_1.png: it has no picture.*size \(32, 40\) .*wanted \(32, 48\)"):
        list_jobs(replace(layouts, editing=editing), pipe)


def test_empty_maps_are_said_once(pipe, layouts, settings, tmp_path):
    nothing = np.zeros((32, 48), np.int32)
    void = np.full((32, 48), settings.taxonomy.void_id, np.uint8)
    PanopticMap(segment_id=nothing, class_id=void).write(layouts.panoptic / "void.png")
    told = []
    sample_folder(pipe, layouts, tmp_path / "out", replace(HOW, steps=1), warn=told.append)
    assert told == ["1 of 3 maps are void all over and without a segment: such a picture is drawn by its prompt alone."]
