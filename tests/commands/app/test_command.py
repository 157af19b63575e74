"""`mamoe app` from its words: where it listens, what it opens, what it refuses."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from factories import mamoe
from mamoe.commands.app.guard import is_loopback
from mamoe.commands.app.layouts import layouts_of
from mamoe.commands.app.serve import address_of, load_studio
from mamoe.errors import DatasetError
from mamoe.vocabulary.taxonomy import Taxonomy
from wholeruns import COMMAND


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
def test_it_serves_until_told_to_stop(saved_pipeline: Path, how, code):
    words = [*COMMAND, "app", str(saved_pipeline), "--host", "0.0.0.0", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "MAMOE_APP_TOKEN": "of-the-environment"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        address, _, token = line.split()[2].partition("#token=")
        assert token == "of-the-environment"
        asked = urllib.request.Request(f"{address}api/about", headers={"Authorization": f"Bearer {token}"})
        asked.full_url = asked.full_url.replace("0.0.0.0", "127.0.0.1")
        assert json.load(urllib.request.urlopen(asked))["name"] == "a_town"
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code and "open pages keep what was painted" in err
    assert "Traceback" not in err and not out
