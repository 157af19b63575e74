import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from mamoe.data.encoded import content_of
from mamoe.errors import DatasetError
from mamoe.evaluation.protocol import Generation
from mamoe.evaluation.run import folder_row
from mamoe.machine.processes import Processes
from mamoe.models.control.concat import widened
from mamoe.randomness import derive_seed
from mamoe.sampling.batches import batches_by_size, sample_batch
from mamoe.sampling.folders import sample_folder
from mamoe.sampling.jobs import LayoutFolder
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import contact_sheet, key_of, model_hash
from mamoe.vocabulary.drawing import Drawing, Mode, mode_of
from mamoe.vocabulary.panoptic import read_panoptic, resized_panoptic

JOB = {"steps": 2, "batch_size": 2}
OF_LAYOUTS = ("prompts", "instance_prompts", "conditions", "size", "recursive")
OF_DRAWING = ("steps", "guidance_scale", "batch_size", "seed")


def sample(pipe, maps, out, **options):
    """The real one, told the fields of its records one by one, as the command is."""
    layouts = LayoutFolder(panoptic=maps, **{name: options.pop(name) for name in OF_LAYOUTS if name in options})
    drawing = Drawing(**{name: options.pop(name) for name in OF_DRAWING if name in options})
    return sample_folder(pipe, layouts, out, replace(drawing, mode=mode_of(drawing.guidance_scale)), **options)


@pytest.fixture
def maps(tmp_path, make_map):
    """Three maps, one of another size."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for seed, width in ((2, 48), (10, 64), (1, 48)):
        make_map(seed, width=width).write(folder / f"town_{seed}.png")
    return folder


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def stamps(folder):
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir() if p.name != "contact_sheet.png"}


def test_pictures_records_and_sheet(pipe, maps, tmp_path):
    prompts, instances = tmp_path / "prompts.csv", tmp_path / "instances.json"
    prompts.write_text('img_name,prompt\ntown_1.png,"a, b"\ntown_2.jpg,two\ntown_10.png,ten\n')
    instances.write_text(json.dumps({"town_1.png": {"300": "a person in a green coat", "7": "a red car"}}))
    steps = []
    out = tmp_path / "out"
    result = sample(
        pipe,
        maps,
        out,
        prompts=prompts,
        instance_prompts=instances,
        seed=5,
        guidance_scale=3.0,
        **JOB,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert [path.name for path in result.pictures] == ["town_1.png", "town_2.png", "town_10.png"]
    assert steps == [(0, 3), (2, 3), (3, 3)]
    assert json.loads((out / "town_1.json").read_text()) == {
        "panoptic": str(maps / "town_1.png"),
        "panoptic_hash": content_of(maps / "town_1.png"),
        "prompt": "a, b",
        "instance_prompts": {"7": "a red car", "300": "a person in a green coat"},
        "size": [32, 48],
        "seed": derive_seed(5, "sample", key_of("town_1.png")),
        "mode": "cfg",
        "steps": 2,
        "guidance_scale": 3.0,
        "scheduler": "DDIMScheduler",
        "model_hash": model_hash(pipe),
    }
    assert json.loads((out / "town_2.json").read_text())["prompt"] == "two"
    assert read(out / "town_10.png").shape == (32, 64, 3)
    assert read(result.contact_sheet).std() > 0
    assert not list(out.glob(".*"))


def test_picture_depends_neither_on_order_nor_on_the_other_files(pipe, maps, tmp_path):
    sample(pipe, maps, tmp_path / "all", **JOB)
    (maps / "town_1.png").unlink()
    (maps / "town_10.png").unlink()
    sample(pipe, maps, tmp_path / "one", **JOB)
    assert np.abs(read(tmp_path / "all" / "town_2.png") - read(tmp_path / "one" / "town_2.png")).max() <= 1
    assert np.abs(read(tmp_path / "all" / "town_2.png") - read(tmp_path / "all" / "town_1.png")).max() > 2


def test_stopped_job_goes_on_and_touches_nothing_finished(pipe, maps, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    sample(pipe, maps, whole, **JOB)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sample(pipe, maps, out, **JOB, progress=stop)
    finished = stamps(out)
    assert {name for name in finished if name.endswith(".png")} == {"town_1.png", "town_2.png"}
    # As if stopped between a record and its picture.
    shutil.copy(whole / "town_10.json", out)
    result = sample(pipe, maps, out, **JOB)
    assert result.drawn == 1
    assert finished.items() <= stamps(out).items()
    for name in ("town_1.png", "town_2.png", "town_10.png"):
        assert np.abs(read(out / name) - read(whole / name)).max() <= 1
    done = stamps(out)
    assert sample(pipe, maps, out, **JOB).drawn == 0
    assert stamps(out) == done


def test_other_settings_are_refused_before_anything_is_written(pipe, maps, tmp_path):
    out = tmp_path / "out"
    sample(pipe, maps, out, **JOB)
    done = stamps(out)
    with pytest.raises(DatasetError, match=r"town_1\.png was drawn with another seed, guidance_scale"):
        sample(pipe, maps, out, **JOB, seed=1, guidance_scale=2.0)
    assert stamps(out) == done


def test_another_map_of_the_same_name_is_not_taken_for_drawn(pipe, maps, make_map, tmp_path):
    out = tmp_path / "out"
    sample(pipe, maps, out, **JOB)
    make_map(99, width=48).write(maps / "town_1.png")
    with pytest.raises(DatasetError, match=r"town_1\.png was drawn with another panoptic_hash"):
        sample(pipe, maps, out, **JOB)


def test_foreign_pictures_are_never_overwritten(pipe, maps):
    done = stamps(maps)
    with pytest.raises(DatasetError, match="not a picture of such a job"):
        sample(pipe, maps, maps, **JOB)
    assert stamps(maps) == done


def test_maps_are_brought_to_the_size_asked_for(pipe, maps, tmp_path):
    out = tmp_path / "out"
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps({"town_1.png": {"300": "a person in a green coat"}}))
    sample(pipe, maps, out, size=(16, 24), instance_prompts=instances, **JOB)
    assert {read(out / f"town_{n}.png").shape for n in (1, 2, 10)} == {(16, 24, 3)}
    assert json.loads((out / "town_10.json").read_text())["size"] == [16, 24]
    # The same maps, brought to that size beforehand, give the same pictures: names decide the seeds.
    small = tmp_path / "small"
    small.mkdir()
    for path in maps.glob("*.png"):
        resized_panoptic(read_panoptic(path), (16, 24)).write(small / path.name)
    sample(pipe, small, tmp_path / "again", instance_prompts=instances, **JOB)
    for n in (1, 2, 10):
        assert np.array_equal(read(out / f"town_{n}.png"), read(tmp_path / f"again/town_{n}.png"))
    told = []
    odd = sample(pipe, maps, tmp_path / "odd", size=(20, 24), warn=told.append, **JOB)
    assert {read(path).shape for path in odd.pictures} == {(20, 24, 3)}
    assert [line[:37] for line in told] == ["Height and width (20, 24) are not div"]


def test_all_bad_input_in_one_error(pipe, maps, make_map, tmp_path):
    (maps / "town_4.png").write_bytes(b"no picture")
    prompts, instances = tmp_path / "p.csv", tmp_path / "i.json"
    prompts.write_text("img_name,prompt\ntown_1.png,one\ntown_2.png,two\ntown_3.png,three\ntown_4.png,four\n")
    instances.write_text(json.dumps({"town_1.png": {"9": "a red car"}}))
    with pytest.raises(DatasetError) as error:
        sample(pipe, maps, tmp_path / "out", prompts=prompts, instance_prompts=instances)
    text = str(error.value)
    for expected in (
        "town_10.png has no prompt",
        "segments [9], but the map has [1, 2, 7, 300]",
        "town_4.png",
        "3 problems",
    ):
        assert expected in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "says"), [("none", "There is no folder"), ("empty", "holds no panoptic PNGs")])
def test_no_maps(pipe, tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=says):
        sample(pipe, tmp_path / name, tmp_path / "out")


def test_hash_tells_weights_apart(make_pipe, layout_unet):
    first, again = model_hash(make_pipe()), model_hash(make_pipe())
    assert first == again and len(first) == 16
    assert model_hash(make_pipe(layout=False)) != first


def test_sheet_of_many_stays_small(maps, tmp_path, taxonomy):
    Image.new("RGB", (640, 320), "red").save(tmp_path / "picture.png")
    sheet = contact_sheet([(maps / "town_1.png", tmp_path / "picture.png")] * 100, taxonomy)
    assert sheet.size == (4 * 516 + 4, 10 * 132 + 4)


@pytest.fixture
def samples(make_map):
    import torch

    from mamoe.vocabulary.prompts import RegionPrompts
    from mamoe.vocabulary.sample import Sample

    widths = (48, 64, 48)
    return [
        Sample(
            key=f"{i}.png",
            index=i,
            epoch=0,
            image=torch.zeros(3, 32, width, dtype=torch.uint8),
            panoptic=make_map(i, width=width),
            prompts=RegionPrompts(global_prompt=f"street {i}", by_segment={7: "a red car"}),
        )
        for i, width in enumerate(widths)
    ]


def test_batch_of_samples_in_their_order(pipe, samples):
    images = sample_batch(pipe, samples, [1, 2, 3], Drawing(steps=2, batch_size=2))
    assert [image.size for image in images] == [(48, 32), (64, 32), (48, 32)]
    (alone,) = sample_batch(pipe, samples[2:], [3], Drawing(steps=2))
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(images[2])).max() <= 1


def test_modes(pipe, samples, make_pipe):
    drawn = {mode: sample_batch(pipe, samples[:1], [1], Drawing(steps=2, mode=mode))[0] for mode in Mode}
    assert len({image.tobytes() for image in drawn.values()}) == 3
    # Without prompt and layout nothing but the seed is left.
    other = sample_batch(pipe, samples[2:], [1], Drawing(steps=2, mode=Mode.UNCOND))[0]
    assert np.array_equal(np.asarray(other), np.asarray(drawn[Mode.UNCOND]))
    with pytest.raises(ValueError, match="one seed per sample"):
        sample_batch(pipe, samples, [1])


def test_base_model_draws_at_the_maps_size(make_pipe, samples):
    images = sample_batch(make_pipe(layout=False), samples, [1, 2, 3], Drawing(steps=1), layout=False)
    assert [image.size for image in images] == [(48, 32), (64, 32), (48, 32)]


def test_batches_hold_one_size_and_every_picture_once():
    sizes = [(8, 8), (16, 8), (8, 8), (8, 8)]
    assert list(batches_by_size(sizes, 2)) == [[0, 2], [3], [1]]
    with pytest.raises(ValueError, match="at least 1"):
        list(batches_by_size(sizes, 0))


def test_two_processes_share_the_pictures(pipe, maps, tmp_path, monkeypatch):
    """Each draws its batches; together they leave what one alone leaves, to the byte."""
    meeting = Barrier(2, timeout=60)
    monkeypatch.setattr(Processes, "wait", lambda self: meeting.wait() if self.count > 1 else None)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    sample(pipe, maps, alone, steps=2, batch_size=1)
    ends = []
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(
                sample,
                copy(pipe),
                maps,
                shared,
                steps=2,
                batch_size=1,
                processes=Processes(rank=rank, count=2),
                progress=lambda done, total, rank=rank: ends.append((rank, done, total)),
            )
            for rank in (0, 1)
        ]
        assert {job.result(60).pictures for job in both} == {tuple(shared / p.name for p in sorted_maps(maps))}
    assert {end[0]: end[1:] for end in ends} == {0: (2, 2), 1: (1, 1)}
    assert {p.name: p.read_bytes() for p in shared.iterdir()} == {p.name: p.read_bytes() for p in alone.iterdir()}


def sorted_maps(folder):
    return sorted(folder.iterdir(), key=lambda path: int(path.stem.split("_")[1]))


def test_pictures_of_other_conditions_are_not_taken_for_those_asked_for(pipe, maps, tmp_path):
    for name, value in (("light", 200), ("dark", 20)):
        (tmp_path / name).mkdir()
        for path in maps.glob("*.png"):
            Image.new("RGB", Image.open(path).size, (value,) * 3).save(tmp_path / name / path.name)
    layout = pipe.config["layout"]
    shown = LayoutPipeline(**{**pipe.components, "unet": widened(pipe.unet)}, layout=layout, condition="classes")
    shown.set_progress_bar_config(disable=True)
    out = tmp_path / "out"
    sample(shown, maps, out, conditions=tmp_path / "light", **JOB)
    before = stamps(out)
    for other in (tmp_path / "dark", None):
        with pytest.raises(DatasetError, match="was drawn with another condition_hash"):
            sample(shown, maps, out, conditions=other, **JOB)
    assert stamps(out) == before
    (tmp_path / "light").rename(tmp_path / "moved")
    assert sample(shown, maps, out, conditions=tmp_path / "moved", **JOB).drawn == 0


def test_a_job_from_before_records_named_the_mode_goes_on(pipe, maps, tmp_path):
    """Half drawn by an earlier version, and then scored as one folder."""
    out = tmp_path / "out"
    sample(pipe, maps, out, **JOB)
    whole = json.loads((out / "town_1.json").read_text())
    assert whole.pop("mode") == "cfg"
    (out / "town_1.json").write_text(json.dumps(whole))
    (out / "town_10.png").unlink()
    before = stamps(out)
    assert sample(pipe, maps, out, **JOB).drawn == 1
    assert before["town_1.json"] == stamps(out)["town_1.json"]
    assert folder_row(out).generation == Generation(mode="cfg", sampler="DDIMScheduler", steps=2, guidance=4.0)
    with pytest.raises(DatasetError, match=r"town_1\.png was drawn with another mode, guidance_scale"):
        sample(pipe, maps, out, **JOB, guidance_scale=1.0)
