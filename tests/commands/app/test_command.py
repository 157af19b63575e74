"""`mamoe app` from its words: where it listens, what it opens, what it refuses."""

import base64
import http.client
import json
import shutil
import signal
import socket
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from serving import Served

from apart import Command
from factories import mamoe
from mamoe.commands.app.guard import is_loopback
from mamoe.commands.app.layouts import layouts_of
from mamoe.commands.app.serve import address_of, load_studio
from mamoe.commands.app.studio import Cancelled
from mamoe.errors import DatasetError
from mamoe.vocabulary.panoptic import PanopticMap, panoptic_bytes
from mamoe.vocabulary.taxonomy import Taxonomy


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(host, True) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1")],
        *[(host, False) for host in ("0.0.0.0", "10.0.0.1", "::", "localhost.evil.example", "")],
    ],
)
def test_which_hosts_need_a_token(host, own):
    assert is_loopback(host) is own


def test_the_address_keeps_the_token_from_the_wire():
    assert address_of("127.0.0.1", 7860, None) == "http://127.0.0.1:7860/"
    assert address_of("::", 80, "abc") == "http://[::]:80/#token=abc"


def test_a_run_brings_its_own_maps(finished_run):
    studio = load_studio(finished_run, data=None, checkpoint="latest", base=None, device="cpu", precision=None)
    assert {split: len(names) for split, names in studio.layouts.names.items()} == {"train": 6, "val": 3, "test": 2}
    assert studio.usual_size == (64, 64) and studio.name.startswith("demo/")


def test_without_data_the_page_works_and_says_so(saved_pipeline, capsys):
    studio = load_studio(saved_pipeline, data=None, checkpoint="latest", base=None, device="cpu", precision=None)
    assert studio.layouts.names == {} and "--data FOLDER" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="--data FOLDER"):
        studio.layouts.template((64, 64), Taxonomy.load("scenes"))


def test_a_run_whose_data_is_gone_works_and_says_so(finished_run, tmp_path, capsys):
    moved = tmp_path / "run"
    shutil.copytree(finished_run, moved, symlinks=True)
    told = yaml.safe_load((moved / "config.yaml").read_text())
    told["data"]["images"] = str(tmp_path / "nowhere")
    (moved / "config.yaml").write_text(yaml.safe_dump(told))
    layouts = layouts_of(moved, "latest", None, Taxonomy.load("scenes"), (64, 64))
    assert layouts.names == {} and layouts.size is None
    assert "--data FOLDER" in capsys.readouterr().err


def test_a_closed_connection_ends_its_drawing(studio):
    blank = PanopticMap(segment_id=np.ones((64, 64), np.int32), class_id=np.zeros((64, 64), np.uint8))
    plain = {"prompt": "", "instance_prompts": {}, "seed": 0, "steps": 1000, "guidance_scale": 3.0}
    body = json.dumps({"map": base64.b64encode(panoptic_bytes(blank)).decode(), **plain})
    served, ended = Served(studio), threading.Event()
    draw = studio.draw

    def watched(*given):
        try:
            return draw(*given)
        except Cancelled:
            ended.set()
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio, "draw", watched)
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("POST", "/api/draw", body)
        answer = connection.getresponse()
        assert json.loads(answer.readline()) == {"waiting": True} and json.loads(answer.readline())["of"] == 1000
        answer.close()
        connection.close()
        assert ended.wait(5)
    served.stop()


def test_a_data_set_of_other_classes_is_refused(saved_pipeline, scenes):
    with pytest.raises(ValueError, match="class 0 is"):
        layouts_of(saved_pipeline, "latest", scenes, Taxonomy.load("ade20k"), (64, 64))


def test_a_model_without_layout_has_nothing_to_paint_for(base_model):
    outcome = mamoe("app", base_model, "--port", "0")
    assert outcome.code == 2 and "knows no layout" in outcome.err and "mamoe demo" in outcome.err


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = mamoe("app", tmp_path / "none", "--port", str(taken.getsockname()[1]))
    assert outcome.code == 2 and "--port" in outcome.err and "Traceback" not in outcome.err
    assert "--host" in mamoe("app", tmp_path / "none", "--host", "203.0.113.7").err  # no address of this machine


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_it_serves_until_told_to_stop(saved_pipeline: Path, tmp_path, monkeypatch, how, code):
    monkeypatch.setenv("MAMOE_APP_TOKEN", "of-the-environment")
    words = ["app", saved_pipeline, "--host", "0.0.0.0", "--port", "0", "--device", "cpu"]
    served = Command(words, tmp_path / "said")
    assert served.wait(until=lambda: served.out.endswith("\n")), served.outcome()
    address, _, token = served.out.split()[2].partition("#token=")
    assert token == "of-the-environment"
    asked = urllib.request.Request(f"{address}api/about", headers={"Authorization": f"Bearer {token}"})
    asked.full_url = asked.full_url.replace("0.0.0.0", "127.0.0.1")
    assert json.load(urllib.request.urlopen(asked))["name"] == "a_town"
    before = served.out
    served.send(how)
    ended = served.outcome(timeout=30)
    assert ended.code == code and "open pages keep what was painted" in ended.err
    assert "Traceback" not in ended.err and ended.out == before
