"""What users type, and what they find afterwards."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from asked import batch, caption, files_of

from factories import mamoe
from fake_openai import SENTINEL, completion, fingerprint
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.stopping import Terminated
from mamoe.prepare.captioning.choices import Kind, Mode, Only
from mamoe.prepare.captioning.server import Server
from mamoe.prepare.check import check_folder
from mamoe.storage.lock import held

HOSTILE = '=HYPERLINK("http://x/")<script>alert(1)</script><img src=x onerror=alert(2)>'


def words(town, server, *more, command="captions"):
    return ["prepare", command, town, "--model", "tiny-vl", "--base-url", server.url, *more]


def test_both_commands(town, server):
    outcome = mamoe(*words(town, server))
    assert outcome.code == 0, outcome
    assert "11 of 11 pictures have their text, 11 of them new" in outcome.out
    outcome = mamoe(*words(town, server, "--min-pixels", "60", command="instance-captions"))
    assert outcome.code == 0 and "objects have their text" in outcome.out, outcome
    assert "objects have fewer than 60 pixels" in outcome.err
    assert not check_folder(town).problems
    outcome = mamoe(*words(town, server))
    assert outcome.code == 0 and "nothing to ask, 11 with a text of their own" in outcome.out


def test_what_is_there_is_not_changed_without_a_word(town, server):
    path = town / "prompts_train.csv"
    path.write_text("img_name,prompt\nscene_000000.png,mine\nscene_000001.png,\nother.png,kept\n")
    caption(town, server)
    first = read_prompts_csv(path)
    assert first["scene_000000.png"] == "mine" and first["other.png"] == "kept"
    assert first["scene_000001.png"].startswith("a thing") and len(first) == 9
    with pytest.raises(ConfigError, match="--mode overwrite, append or prepend"):
        caption(town, server, only=Only.ALL)
    assert read_prompts_csv(path) == first


@pytest.mark.parametrize("mode", Mode)
def test_modes(mode, town, server):
    path = town / "prompts_train.csv"
    path.write_text("img_name,prompt\nscene_000000.png,mine\nscene_000001.png,Mine.\n")
    caption(town, server, split=["train"], only=Only.ALL, mode=mode)
    new = {name: f"a thing {one}" for name, one in prints(town, server).items()}
    wanted = {
        Mode.OVERWRITE: [new["scene_000000.png"], new["scene_000001.png"]],
        Mode.APPEND: [f"mine, {new['scene_000000.png']}", f"Mine. {new['scene_000001.png']}"],
        Mode.PREPEND: [f"{new['scene_000000.png']}, mine", f"{new['scene_000001.png']}, Mine."],
    }[mode]
    assert [*read_prompts_csv(path).values()][:2] == wanted
    before = path.read_bytes()
    caption(town, server, split=["train"], only=Only.ALL, mode=mode)  # answered from the journal, and put once
    assert path.read_bytes() == before and len(server.chats) == 8


def prints(town, server):
    """Of every train picture, by the text the server gave it."""
    journal = [json.loads(line) for line in (town / "captions/pictures.jsonl").read_text().splitlines()]
    return {Path(one["item"]).name: one["text"].split()[-1] for one in journal if "answered" in one}


def test_an_object_that_has_its_class_s_prompt_has_none_of_its_own(town, server):
    caption(town, server, Kind.OBJECTS, classes="person")
    path = town / "instance_prompts_train.json"
    prompts = read_instance_prompts(path)
    (name, segment), (other, another) = [(name, s) for name, one in prompts.items() for s in one][:2]
    plain = json.loads(path.read_text())
    plain[name][str(segment)], plain[other][str(another)] = "person", "somebody I know"
    path.write_text(json.dumps(plain))
    before = len(server.chats)
    caption(town, server, Kind.OBJECTS, classes="person", model="another")
    assert len(server.chats) == before + 1
    again = read_instance_prompts(path)
    assert again[name][segment] == prompts[name][segment] and again[other][another] == "somebody I know"


def test_a_preview_changes_no_text_and_its_answers_are_kept(town, server):
    outcome = mamoe(*words(town, server, "--preview", "4", "--min-pixels", "60", command="instance-captions"))
    assert outcome.code == 0, outcome
    assert len(server.chats) == 4 and not (town / "instance_prompts_train.json").exists()
    page = (town / "captions/objects.preview.html").read_text()
    assert page.count("<img src=") == 4 and page.count("a thing ") == 4 and "What the model is told" in page
    mamoe(*words(town, server, "--min-pixels", "60", command="instance-captions"))
    assert set(server.asked.values()) == {1}


def test_a_preview_of_nothing_asked(town, server):
    mamoe(*words(town, server, "--preview", "3", "--dry-run"))
    page = (town / "captions/pictures.preview.html").read_text()
    assert not server.chats and page.count("<img src=") == 3 and "a thing" not in page
    assert [path.name for path in (town / "captions").iterdir()] == ["pictures.preview.html"]


def test_hostile_answers(town, server):
    server.answer = lambda body: completion(HOSTILE + fingerprint(body))
    path = town / "prompts_train.csv"
    path.write_text(f'img_name,prompt\nscene_000000.png,"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n')
    caption(town, server, only=Only.ALL, mode=Mode.OVERWRITE, preview=11)
    page = (town / "captions/pictures.preview.html").read_text()
    assert "<script>" not in page and "<img src=x" not in page and html.escape("<script>alert(1)", quote=False) in page
    caption(town, server, only=Only.ALL, mode=Mode.OVERWRITE)
    texts = read_prompts_csv(path)
    assert all(text.startswith('HYPERLINK("http://x/")<script>') for text in texts.values())
    cells = re.findall(r"^[^,]*,(.*)$", path.read_text(), re.MULTILINE)[1:]
    assert len(cells) == 8 and not any(cell.lstrip('"')[0] in "=+-@\t" for cell in cells)


# The key.


def test_the_key_is_nowhere(town, server, capfd):
    """It comes back in messages of the server, in answers, and in a header that cannot be sent."""
    said = json.dumps({"error": {"message": f"bad key {SENTINEL}"}}).encode()
    server.trouble = lambda body, number: {1: (400, {}, said), 2: (500, {}, said)}.get(number)
    server.answer = lambda body: completion(f"I know {SENTINEL}", refusal=SENTINEL if len(server.chats) == 3 else None)
    outcomes = [mamoe(*words(town, server, "--preview", "5"))]
    outcomes.append(mamoe(*words(town, server)))
    server.trouble = lambda body, number: None

    def trouble(found, lines):
        lines[0]["response"] = {"status_code": 400, "body": {"error": SENTINEL}}
        lines[1] |= {"response": None, "error": {"message": SENTINEL}}

    server.batch_trouble = trouble
    with pytest.raises(DatasetError) as raised:
        batch(town, server, Kind.OBJECTS)
    server.trouble = lambda body, number: (401, {}, said)
    outcomes.append(mamoe(*words(town, server, "--only", "all", "--mode", "overwrite", "--template", "object")))
    assert outcomes[-1].code == 2
    shown = "".join(one.out + one.err for one in outcomes) + str(raised.value) + "".join(capfd.readouterr())
    assert SENTINEL not in shown and "[key]" in shown
    found = [path for path, raw in files_of(town).items() if SENTINEL.encode() in raw]
    assert not found
    assert any(b"[key]" in raw for raw in files_of(town / "captions").values())
    assert any(header.get("Authorization") == f"Bearer {SENTINEL}" for header in server.headers)


def test_keys_come_from_the_environment(town, server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    outcome = mamoe("prepare", "captions", town, "--model", "x")
    assert outcome.code == 2 and "OPENAI_API_KEY" in outcome.err and "--key-env" in outcome.err
    assert mamoe(*words(town, server, "--key-env", "MY_KEY")).code == 2
    monkeypatch.setenv("MY_KEY", "a key with spaces")
    outcome = mamoe(*words(town, server, "--key-env", "MY_KEY"))
    assert outcome.code == 2 and "a key with spaces" not in outcome.err
    assert not (town / "captions").exists() and not server.chats
    outcome = mamoe(*words(town, server, "--split", "val"))  # a server of one's own may want none
    assert outcome.code == 0 and not any("Authorization" in header for header in server.headers)
    monkeypatch.setenv("MY_KEY", "mine")
    mamoe(*words(town, server, "--key-env", "MY_KEY"))
    assert server.headers[-1]["Authorization"] == "Bearer mine"


def test_a_netrc_is_not_read(town, server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("OPENAI_API_KEY")
    mamoe(*words(town, server))
    assert len(server.headers) == 11 and not any("Authorization" in header for header in server.headers)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://me:secret@localhost/v1", "http://x/v1?key=1"])
def test_addresses_that_cannot_be_meant(url, town, server):
    outcome = mamoe("prepare", "captions", town, "--model", "x", "--base-url", url)
    assert outcome.code == 2 and "--base-url" in outcome.err and "secret" not in outcome.err


# The data set.


def test_other_words_for_files_in_data_yaml(town, server):
    (town / "data.yaml").write_text("taxonomy: scenes\nprompts: texts/{split}.csv\ninstance_prompts: null\n")
    caption(town, server)
    assert len(read_prompts_csv(town / "texts/val.csv")) == 3
    with pytest.raises(ConfigError, match="instance_prompts: null"):
        caption(town, server, Kind.OBJECTS)
    (town / "data.yaml").write_text("taxonomy: scenes\nprompts: all.csv\n")
    with pytest.raises(ConfigError, match="--split"):
        caption(town, server)


def test_photographs_without_maps(town, server, tmp_path):
    for path in [*(town / "panoptic").rglob("*.png")]:
        path.unlink()
    caption(town, server)
    assert len(read_prompts_csv(town / "prompts_train.csv")) == 8
    with pytest.raises(DatasetError, match="no panoptic map"):
        caption(town, server, Kind.OBJECTS)


def test_pictures_in_folders(town, server):
    (town / "images/train/inner").mkdir()
    (town / "images/train/scene_000000.png").rename(town / "images/train/inner/scene_000000.png")
    (town / "data.yaml").write_text("taxonomy: scenes\nrecursive: true\n")
    caption(town, server)
    assert "inner/scene_000000.png" in read_prompts_csv(town / "prompts_train.csv")


def test_words_that_contradict_each_other(town, server):
    for more, said in (
        (["--max-cost", "1"], "--price-in"),
        (["--price-in", "1"], "--price-out"),
        (["--split", "trian"], "trian"),
        (["--device", "cuda"], "--via local"),
        (["--mode", "append"], "--only missing"),
        (["--template", "nothing.yaml"], "nothing.yaml"),
        (["--via", "local", "--max-cost", "1", "--price-in", "1", "--price-out", "1"], "no address and no price"),
    ):
        outcome = mamoe(*words(town, server, *more))
        assert outcome.code == 2 and said in outcome.err, outcome
    assert not (town / "captions").exists()


def test_the_text_encoder_of_a_base_model_decides(town, server, base_model):
    server.answer = lambda body: completion("car " * 70 if fingerprint(body) < "8" else "car " * 90)
    outcome = mamoe(*words(town, server, "--base", base_model))
    report = json.loads((town / "captions/pictures.report.json").read_text())
    assert report["text_encoder_checked"] and 0 < report["good"] < 11
    assert outcome.code == 3 and f"{11 - report['good']} too long" in outcome.err
    assert all("the text encoder takes" in fault["why"] for fault in report["faults"])


# Several processes.


def test_one_process_at_a_time(town, server):
    (town / "captions").mkdir()
    (town / "captions/pictures.jsonl").touch()
    with held(town / "captions/pictures.jsonl"), pytest.raises(ConfigError, match="Another process"):
        caption(town, server)


def test_array_tasks_share_the_work(town, server, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    for task in (2, 0, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        *_, line = caption(town, server)
        assert f"(part {task + 1} of 3)" in line
    assert len(server.chats) == 11 and set(server.asked.values()) == {1}
    assert not check_folder(town).problems and len(read_prompts_csv(town / "prompts_train.csv")) == 8
    names = sorted(path.name for path in (town / "captions").glob("*.jsonl"))
    assert names == [f"pictures.{i}-of-3.jsonl" for i in (1, 2, 3)]
    # Alone afterwards, their answers are known.
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    (town / "prompts_train.csv").unlink()
    caption(town, server)
    assert len(server.chats) == 11 and len(read_prompts_csv(town / "prompts_train.csv")) == 8


def test_array_tasks_share_the_money(town, server, monkeypatch):
    prices = {"price_in": 100.0, "price_out": 400.0}
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for task in (0, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        with pytest.raises(DatasetError, match="--max-cost"):
            caption(town, server, **prices, max_cost=5.6)
    assert 0 < server.cost(100, 400) <= 5.6 and len(server.chats) >= 2


@pytest.mark.slow
def test_torchrun_shares_the_work(town, server):
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "-m", "mamoe"]
    done = subprocess.run(
        [*launched, *map(str, words(town, server))], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(server.asked.values()) == {1} and len(read_prompts_csv(town / "prompts_train.csv")) == 8
    assert SENTINEL not in done.stdout + done.stderr


@pytest.mark.parametrize(("told", "code"), [(KeyboardInterrupt, 130), (Terminated, 75)])
def test_told_to_stop(told, code, town, server, monkeypatch):
    whole = Server.chat

    def chat(self, body):
        if len(server.chats) >= 4:
            raise told
        return whole(self, body)

    monkeypatch.setattr(Server, "chat", chat)
    outcome = mamoe(*words(town, server, "--workers", "1"))
    assert outcome.code == code and "the same command goes on from there" in outcome.err, outcome
    monkeypatch.setattr(Server, "chat", whole)
    assert mamoe(*words(town, server)).code == 0
    assert len(server.chats) == 11 and not check_folder(town).problems
