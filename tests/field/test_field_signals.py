"""Told to stop while pictures are drawn or losses measured: it ends at the picture at hand and says how to go on."""

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from training_fakes import CPU, Pictures, collate, fit, make_data, make_module

from factories import mamoe
from mamoe.evaluation.distances.family import Kind
from mamoe.evaluation.features.extractors import load_extractor
from mamoe.machine.stopping import Stopped, Terminated, stopped_with, terminable
from mamoe.sampling import folders as jobs
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.training.loop.metrics import read_rows
from mamoe.training.watch.samples import SampleGrids
from mamoe.training.watch.scoring import FixedScores
from mamoe.training.watch.validation import FixedLoss
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.taxonomy import Taxonomy

DATA = Pictures(6)
SAMPLES = [DATA[0, i] for i in range(6)]


class Painter:
    """A sampler that is told to stop while it draws its n-th batch."""

    def __init__(self, told_at: int | None = None, number: int = signal.SIGTERM) -> None:
        self.told_at, self.number, self.batches = told_at, number, 0

    @contextmanager
    def __call__(self, module):
        yield self.draw

    def draw(self, samples, drawing, seeds):
        self.batches += 1
        if self.batches == self.told_at:
            os.kill(os.getpid(), self.number)
        return [Image.fromarray(sample.picture // 2) for sample in samples]


def train(folder, callback, resume=None, steps=4):
    loggers = {"checkpoint_every_n_steps": 4, "log_every_n_steps": 1}
    options = {"trainer": CPU, "callbacks": [callback], "resume": resume, **loggers}
    return fit(make_module(), make_data(), folder, max_steps=steps, **options)


def grids(folder, painter):
    options = {"samples": SAMPLES, "taxonomy": Taxonomy.load("cityscapes"), "every_n_steps": 2}
    return SampleGrids(folder, sampler=painter, drawing=Drawing(batch_size=2), **options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_sample_grid_is_left_and_drawn_when_the_run_goes_on(tmp_path, number, code, caplog):
    painter = Painter(told_at=2, number=number)
    ended = train(tmp_path, grids(tmp_path, painter))
    assert (ended.step, ended.exit_code, painter.batches) == (2, code, 2)
    assert (tmp_path / "checkpoints/step-00000002").is_dir()
    assert "told to stop while drawing samples; they are made when the run goes on" in caplog.text
    assert not (tmp_path / "samples/step-00000002/grid.png").exists()
    again = Painter()
    assert train(tmp_path, grids(tmp_path, again), resume=tmp_path).exit_code == 0
    assert again.batches == 2 * 9
    assert all((tmp_path / f"samples/step-0000000{step}/grid.png").exists() for step in (2, 4))


def test_scores_are_left_and_measured_when_the_run_goes_on(tmp_path):
    def scores(painter):
        options = {"extractor": load_extractor("pixels"), "kinds": [Kind.COVERAGE], "drawing": Drawing(batch_size=2)}
        return FixedScores(tmp_path, sampler=painter, samples=SAMPLES, every_n_steps=2, keep_pictures=True, **options)

    painter = Painter(told_at=1)
    assert train(tmp_path, scores(painter)).exit_code == 75 and painter.batches == 1
    assert not any(row.get("val/coverage-pixels") for row in read_rows(tmp_path / "metrics.csv"))
    train(tmp_path, scores(Painter()), resume=tmp_path)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if any("coverage" in name and value for name, value in row.items())] == [
        "2",
        "4",
    ]
    after = Painter()
    train(tmp_path, scores(after), resume=tmp_path, steps=5)
    assert after.batches == 3  # of the last step; those of step 4 are not drawn again


class Told(FixedLoss):
    """Hears the signal within its first batch after training has begun."""

    told = False

    def _loss(self, module, fixed):
        loss = super()._loss(module, fixed)
        if module.global_step == 2 and not self.told:
            self.told = True
            os.kill(os.getpid(), signal.SIGTERM)
        self.batches = getattr(self, "batches", 0) + 1
        return loss


def losses(kind=FixedLoss):
    options = {"data": Pictures(6), "collate": collate, "count": 6, "batch_size": 2, "every_n_steps": 2}
    return kind(name="val/loss", **options)


def test_a_fixed_loss_is_left_and_measured_when_the_run_goes_on(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, losses())
    told = losses(Told)
    assert train(parts, told).exit_code == 75
    assert told.batches == 3 + 1  # of step 0, and the one at hand
    train(parts, losses(), resume=parts)
    assert read_rows(parts / "metrics.csv") == read_rows(whole / "metrics.csv")


def test_what_follows_a_training_does_not_follow_one_that_was_told_to_stop(tmp_path, caplog):
    ended = train(tmp_path, grids(tmp_path, Painter(told_at=1)), steps=1)
    assert (ended.step, ended.exit_code) == (1, 75)
    assert "they are left out, the training is done" in caplog.text and "For what follows: resume=" in ended.message


def test_a_denoising_step_is_enough(finished_run, tmp_path):
    """The drawing of a real pipeline ends at the next step, not at the next picture."""
    from mamoe.training.loop.interruption import Listening, Stop, unless_told_to_stop

    class Session:
        callbacks = (listening := Listening(),)

    pipe, steps = LayoutPipeline.from_pretrained(finished_run), []
    pipe.set_progress_bar_config(disable=True)

    def count(*_):
        steps.append(1)
        Session.listening.heard = Stop.PREEMPTED

    pipe.unet.register_forward_hook(count)
    with unless_told_to_stop(Session, pipe.unet):  # type: ignore[arg-type]
        pipe("a street", height=64, width=64, num_inference_steps=9)
    assert len(steps) == 1
    pipe("a street", height=64, width=64, num_inference_steps=2)  # afterwards nothing listens
    assert len(steps) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_sample_says_what_is_kept_and_goes_on(finished_run, scenes, tmp_path, monkeypatch, number, code):
    draw, calls = jobs.draw, []

    def told(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return draw(*args, **options)

    monkeypatch.setattr(jobs, "draw", told)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    words = ["sample", finished_run, "--panoptic", scenes / "panoptic/val", "--out", tmp_path / "out"]
    words += ["--steps", 1, "--batch-size", 1, "--device", "cpu"]
    before = signal.getsignal(signal.SIGTERM)
    ended = mamoe(*words)
    assert ended.code == code and "finished pictures are kept" in ended.err and "Traceback" not in ended.err
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(list((tmp_path / "out").glob("*.png"))) == 1 and not list((tmp_path / "out").glob(".*"))
    assert mamoe(*words).code == 0 and len(calls) == 2 + 2


def test_evaluate_says_what_is_kept_and_goes_on(finished_run, tmp_path, monkeypatch):
    from mamoe.commands import evaluate as evaluation

    draw, calls = evaluation.sample_batch, []

    def told(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*args, **options)

    monkeypatch.setattr(evaluation, "sample_batch", told)
    words = ["evaluate", finished_run, "--out", tmp_path, "--modes", "cond", "--scores", "fid", "--extractor", "pixels"]
    words += ["--steps", 1, "--batch-size", 1, "--device", "cpu"]
    ended = mamoe(*words)
    assert ended.code == 75 and "pictures and features are kept" in ended.err
    assert len(list((tmp_path / "cond").glob("*.png"))) == 1 and not (tmp_path / "metrics.json").exists()
    assert mamoe(*words).code == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) and len(calls) == 2 + 1


def test_other_processes_that_were_forked_end_as_ever():
    with terminable():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


def test_ctrl_c_in_a_command_without_words_of_its_own_is_said(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mamoe.scenes.write_scenes", interrupted)
    ended = mamoe("scenes", tmp_path / "town")
    assert (ended.code, ended.err.strip()) == (130, "Interrupted.")


def test_the_word_and_the_exit_code_say_what_told():
    for told, word, code in ((KeyboardInterrupt, "Interrupted", 130), (Terminated, "Stopped", 75)):
        with pytest.raises(Stopped, match=f"{word}: all is kept") as caught, stopped_with("all is kept"):
            raise told
        assert caught.value.exit_code == code
