"""What the page's server answers, and what it refuses."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from mamoe.commands.app.messages import MOST_BYTES, MOST_SIDE
from mamoe.commands.app.server import make_app
from mamoe.data.folder.prompts import read_instance_prompts
from mamoe.sampling.editing import BORDER
from mamoe.vocabulary.panoptic import PanopticMap, panoptic_bytes, read_panoptic

HERE = "http://127.0.0.1:7860"
VOID, CAR = 19, 13


@pytest.fixture
def client(studio) -> TestClient:
    return TestClient(make_app(studio), base_url=HERE)


@pytest.fixture(scope="module")
def a_map(scenes) -> PanopticMap:
    return read_panoptic(next(iter(sorted((scenes / "panoptic" / "test").glob("*.png")))))


def wish(panoptic: PanopticMap | bytes, **changes) -> dict:
    data = panoptic if isinstance(panoptic, bytes) else panoptic_bytes(panoptic)
    plain = {"prompt": "", "instance_prompts": {}, "seed": 3, "steps": 2, "guidance_scale": 3.0}
    return {"map": base64.b64encode(data).decode(), **plain, **changes}


def drawn(client: TestClient, asked: dict) -> list[dict]:
    answer = client.post("/api/draw", json=asked)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def pixels(event: dict) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(event["picture"]))))


def sent_map(answer: dict) -> np.ndarray:
    rgb = np.frombuffer(base64.b64decode(answer["rgb"]), dtype=np.uint8)
    return rgb.reshape(answer["height"], answer["width"], 3)


def test_the_page_and_its_parts_are_served(client):
    page = client.get("/")
    assert page.status_code == 200 and "<title>mamoe" in page.text
    names = [name for name in ("app.js", "view.js", "app.css", "icon.svg") if client.get(f"/{name}").status_code != 200]
    assert not names
    rules = page.headers["content-security-policy"]
    assert "script-src 'self'" in rules and "unsafe" not in rules
    assert "<script>" not in page.text and " onclick" not in page.text and " style=" not in page.text


def test_about_says_what_can_be_painted(client, studio):
    said = client.get("/api/about").json()
    assert said["taxonomy"] == "scenes" and said["void_id"] == VOID and said["size"] == [64, 64]
    assert {"id": CAR, "name": "car", "thing": True, "own_prompt": True}.items() <= said["classes"][CAR].items()
    assert said["maps"] == {"train": 6, "val": 3, "test": 2} and not said["reads_prompt"]
    assert str(Path.home()) not in json.dumps(said) and "/tmp" not in json.dumps(said)


def test_a_picture_is_that_of_the_pipeline(client, studio, a_map):
    segment = next(iter(a_map.classes))
    events = drawn(client, wish(a_map, instance_prompts={str(segment): "a red car"}))
    assert events[0] == {"waiting": True} and events[1:-1] == [{"step": done, "of": 2} for done in (0, 1, 2)]
    wanted = studio.pipe(
        "", a_map, {segment: "a red car"}, num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert (pixels(events[-1]) == np.array(wanted)).all()
    record = events[-1]["record"]
    assert record["seed"] == 3 and record["instance_prompts"] == {str(segment): "a red car"}
    other = drawn(client, wish(a_map, instance_prompts={str(segment): "a red car"}, seed=4))
    assert (pixels(other[-1]) != pixels(events[-1])).any()


def test_what_changes_nothing_is_said(client, a_map):
    (note,) = drawn(client, wish(a_map, prompt="a street"))[-1]["notes"]
    assert "prompt of the whole picture has no effect" in note
    empty = PanopticMap(segment_id=np.zeros((64, 64), np.int32), class_id=np.full((64, 64), VOID, np.uint8))
    assert any("without a segment" in line for line in drawn(client, wish(empty))[-1]["notes"])


def test_a_size_of_no_whole_cells_is_padded_and_said(client):
    odd = PanopticMap(segment_id=np.ones((50, 61), np.int32), class_id=np.full((50, 61), CAR, np.uint8))
    last = drawn(client, wish(odd))[-1]
    assert pixels(last).shape == (50, 61, 3) and "cropped back" in last["notes"][0]
    assert client.post("/api/sizes", content=panoptic_bytes(odd)).status_code == 200


def test_one_instance_is_drawn_anew_and_all_else_stays(client, a_map):
    inside = np.zeros((64, 64), bool)
    inside[16:40, 16:40] = True
    segment, klass = np.where(inside, 7, 1).astype(np.int32), np.where(inside, CAR, 0).astype(np.uint8)
    two = PanopticMap(segment_id=segment, class_id=klass)
    before = drawn(client, wish(two))[-1]
    anew = wish(two, picture=before["picture"], only=7, instance_prompts={"7": "a red car"}, seed=5)
    after = drawn(client, anew)[-1]
    near = np.zeros((64, 64), bool)
    near[16 - BORDER : 40 + BORDER, 16 - BORDER : 40 + BORDER] = True
    assert (pixels(after)[~near] == pixels(before)[~near]).all()
    assert (pixels(after)[inside] != pixels(before)[inside]).any()
    assert after["record"]["only_instances"] == [7]
    for changes, words in [
        ({"only": 99}, "only_instances names segments [99]"),
        ({"only": "7"}, "only must be the number of a segment"),
        ({"picture": "x"}, "picture must be a PNG in base64"),
        ({"picture": base64.b64encode(b"x").decode()}, "what is to be changed must be one"),
        ({"picture": base64.b64encode(as_file(np.zeros((8, 8, 3), np.uint8), format="PNG")).decode()}, "must have"),
    ]:
        answer = client.post("/api/draw", json={**anew, **changes})
        assert words in json.loads(answer.text.splitlines()[-1])["error"]
    alone = {key: value for key, value in anew.items() if key != "picture"}
    assert client.post("/api/draw", json=alone).status_code == 422


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**53}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"guidance_scale": None}, "guidance_scale must be a number"),
        ({"guidance_scale": -2}, "guidance_scale must be 0 or more"),
        ({"prompt": ["x"]}, "prompt must be text"),
        ({"instance_prompts": {"one": "x"}}, "segment ids are whole numbers"),
        ({"instance_prompts": {"1": 2}}, "instance_prompts must map"),
        ({"map": "!!"}, "PNG in base64"),
        ({"map": base64.b64encode(b"<html>").decode()}, "no picture"),
        ({"more": 1}, "A drawing is JSON with"),
    ],
)
def test_wrong_wishes_are_explained(client, a_map, changes, words):
    answer = client.post("/api/draw", json=wish(a_map, **changes))
    assert answer.status_code == 422 and words in answer.json()["error"]


def test_what_the_pipeline_refuses_is_told(client, a_map):
    told = drawn(client, wish(a_map, steps=5000))[-1]
    assert "num_inference_steps must lie in 1..1000" in told["error"]
    told = drawn(client, wish(a_map, instance_prompts={"9999": "a cat"}))[-1]
    assert "instance prompts for segments [9999]" in told["error"]
    assert len(drawn(client, wish(a_map))) == 5  # and it draws on


def test_a_body_that_is_no_json(client):
    for body in (b"", b"\xff\xfe", b"[" * 100_000, b'"text"'):
        answer = client.post("/api/draw", content=body)
        assert answer.status_code == 422 and "A drawing is JSON with" in answer.json()["error"]


def as_file(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, **options)
    return file.getvalue()


def test_bad_maps_are_explained(client):
    grey, colour = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    two_classes = colour.copy()
    two_classes[..., 1], two_classes[0, 0, 2] = 5, 1
    foreign = np.full((8, 8, 3), 77, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    wide = np.zeros((1, MOST_SIDE + 8, 3), np.uint8)
    for data, words in [
        (b"", "no picture"),
        (b"GIF89a", "no picture"),
        (as_file(colour, format="JPEG"), "Lossy formats change ids"),
        (as_file(grey, format="PNG"), "one channel"),
        (as_file(two_classes, format="PNG"), "segments [5] have several"),
        (as_file(foreign, format="PNG"), "class id 77"),
        (as_file(wide, format="PNG"), f"up to {MOST_SIDE} a side"),
        (as_file(noise, format="PNG")[:2000], "Cannot read the panoptic map"),
    ]:
        answer = client.post("/api/read", content=data)
        assert answer.status_code == 422 and words in answer.json()["error"], (words, answer.text)


def test_a_map_comes_back_without_loss(client):
    rng = np.random.default_rng(0)
    klass = rng.integers(0, 19, 2000).astype(np.uint8)
    segment = rng.integers(0, 2000, (40, 50)).astype(np.int32)
    segment[0, 0], class_id = 65535, klass[segment % 2000]
    wanted = PanopticMap(segment_id=segment, class_id=class_id)
    rgb = sent_map(client.post("/api/read", content=panoptic_bytes(wanted)).json()).astype(np.int32)
    assert (rgb[..., 0] * 256 + rgb[..., 1] == segment).all() and (rgb[..., 2] == class_id).all()


def test_requests_of_100_mb_are_refused(client):
    size = 100 * 10**6
    named = client.post("/api/read", content=b"", headers={"content-length": str(size)})
    assert named.status_code == 413 and f"{MOST_BYTES >> 20} MiB" in named.json()["error"]

    def chunks():  # no header says how many are to come
        for _ in range(100):
            yield bytes(10**6)

    unnamed = client.post("/api/read", content=chunks())
    assert unnamed.status_code == 413 and f"{MOST_BYTES >> 20} MiB" in unnamed.json()["error"]
    assert client.get("/api/about").status_code == 200


def test_maps_of_the_data_set_come_with_their_words(client, scenes):
    names = client.get("/api/maps/test").json()["names"]
    assert len(names) == 2 and client.get("/api/maps/test", params={"like": names[1][:-5]}).json()["names"]
    answer = client.get(f"/api/maps/test/{names[0]}").json()
    stored = np.array(Image.open(scenes / "panoptic" / "test" / names[0]))
    assert (sent_map(answer) == stored).all()
    said = read_instance_prompts(scenes / "instance_prompts_test.json")[names[0]]
    assert (
        answer["instance_prompts"]
        and answer["instance_prompts"].items() <= {str(i): t for i, t in said.items()}.items()
    )


@pytest.mark.parametrize(
    "name",
    ["..%2ftrain%2fscene_000000.png", "..%2f..%2fdata.yaml", "%2fetc%2fpasswd", "/etc/passwd", "none.png", "a%00b"],
)
def test_paths_outside_are_not_opened(client, name):
    answer = client.get(f"/api/maps/test/{name}")
    assert answer.status_code in (404, 422)
    assert "error" in answer.json() and "root:" not in answer.text
    for path in ("/../server.py", "/..%2fserver.py", "/%2e%2e/server.py", "/etc/passwd"):
        assert client.get(path).status_code == 404


def test_the_mean_layout_has_the_size_asked_for(client):
    answer = client.get("/api/template", params={"height": 32, "width": 48})
    assert sent_map(answer.json()).shape == (32, 48, 3)
    for size in (
        {"height": 33, "width": 48},
        {"height": 0, "width": 8},
        {"height": 10**6, "width": 8},
        {"height": "x"},
    ):
        assert client.get("/api/template", params=size).status_code == 422


def test_sizes_in_cells(client, a_map):
    found = client.post("/api/sizes", content=panoptic_bytes(a_map)).json()["segments"]
    assert [one["id"] for one in found] == list(a_map.classes)
    assert sum(one["cells"] for one in found) == pytest.approx((a_map.segment_id > 0).sum() / 64, abs=0.01 * len(found))


def test_other_sites_have_no_way_in(studio, client):
    for headers in ({"host": "evil.example"}, {"host": "evil.example:7860"}, {"host": ""}):
        assert client.get("/api/about", headers=headers).status_code == 403
    foreign = client.post("/api/read", content=b"x", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403 and "another site" in foreign.json()["error"]
    assert client.get("/api/about", headers={"origin": HERE}).status_code == 200
    for name in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        assert client.get("/api/about", headers={"host": name}).status_code == 200


def test_elsewhere_a_token_is_asked_for(studio):
    outside = TestClient(make_app(studio, token="very-secret"), base_url="http://10.1.2.3:7860")
    assert outside.get("/").status_code == 200  # the page itself tells nothing
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "}):
        assert outside.get("/api/about", headers=headers).status_code == 401
    answer = outside.get("/api/about", headers={"authorization": "Bearer very-secret"})
    assert answer.status_code == 200


def test_nobody_listening_ends_the_drawing(studio, a_map):
    """As when a tab is closed: the drawing ends with its step, and the next one may begin."""
    from mamoe.commands.app.messages import wish_of
    from mamoe.commands.app.studio import Cancelled

    asked, seen = wish_of(json.dumps(wish(a_map, steps=50)).encode()), []
    with pytest.raises(Cancelled):
        studio.draw(asked, seen.append, lambda: len(seen) < 3)
    assert seen == [0, 1, 2]
    studio.draw(wish_of(json.dumps(wish(a_map)).encode()), seen.append, lambda: True)


def test_a_fault_of_ours_says_nothing_of_the_machine(studio, a_map, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(studio, "draw", fail)
    (_, told) = drawn(TestClient(make_app(studio), base_url=HERE), wish(a_map))
    assert "no fault of yours (RuntimeError)" in told["error"] and "/secret" not in told["error"]


def test_what_is_not_there(client):
    answer = client.get("/api/nothing<script>")
    assert answer.status_code == 404 and answer.headers["content-type"] == "application/json"
    assert client.put("/api/about").status_code == 405
