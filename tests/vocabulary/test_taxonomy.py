import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import yaml

from mamoe.errors import ConfigError
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import REST, Taxonomy, shipped_taxonomies

SMALL = {
    "name": "small",
    "void_id": 9,
    "classes": [
        {"id": 0, "name": "road", "thing": False, "colour": [1, 2, 3]},
        {"id": 4, "name": "car", "thing": True, "prompt": "a car", "colour": [4, 5, 6]},
        {"id": 7, "name": "bus", "thing": True, "colour": [7, 8, 9]},
    ],
    "groupings": {"wheels": {"cars": ["car"], "buses": ["bus"]}},
}


@pytest.mark.parametrize(
    ("name", "classes", "things", "void"),
    [("cityscapes", 19, 8, 19), ("scenes", 19, 8, 19), ("camvid", 11, 3, 11), ("coco_panoptic", 133, 80, 0)],
)
def test_shipped_taxonomies(name, classes, things, void):
    taxonomy = Taxonomy.load(name)
    assert len(taxonomy.classes) == classes
    assert sum(row.is_thing for row in taxonomy.classes) == things
    assert taxonomy.void_id == void
    assert len({row.colour for row in taxonomy.classes}) == classes


def test_every_shipped_file_round_trips_through_json_and_pickle():
    assert set(shipped_taxonomies()) >= {"cityscapes", "scenes", "camvid", "coco_panoptic"}
    for name in shipped_taxonomies():
        taxonomy = Taxonomy.load(name)
        assert Taxonomy.from_dict(json.loads(json.dumps(taxonomy.to_dict()))) == taxonomy
        assert pickle.loads(pickle.dumps(taxonomy)) == taxonomy


@pytest.mark.parametrize("name", ["cityscapes", "scenes"])
def test_cityscapes_groupings_are_the_thesis_ones(name):
    taxonomy = Taxonomy.load(name)
    ids = range(19)
    assert taxonomy.grouping("things").expert_of_class[:20].tolist() == [0] * 11 + [1] * 8 + [0]
    extreme_things = taxonomy.grouping("extreme_things")
    assert extreme_things.num_experts == 5
    assert _groups(extreme_things, ids) == {(13,), (11, 12), (14, 15), (17, 18), (*range(11), 16)}
    extreme = taxonomy.grouping("extreme")
    assert extreme.num_experts == 10
    groups = {(13,), (11, 12), (14,), (15,), (17, 18), (8, 9), (3, 4), (0, 1), (2,), (5, 6, 7, 10, 16)}
    assert _groups(extreme, ids) == groups


def test_rest_is_always_expert_zero_and_holds_void_and_unknown_ids():
    for name in shipped_taxonomies():
        taxonomy = Taxonomy.load(name)
        known = {row.id for row in taxonomy.classes}
        for spec in [*taxonomy.groupings, "per_class"]:
            grouping = taxonomy.grouping(spec)
            assert grouping.names[0] == REST
            assert all(grouping.expert_of_class[i] == 0 for i in range(256) if i not in known)
            assert set(grouping.expert_of_class) == set(range(grouping.num_experts))


def test_per_class_gives_every_class_its_own_expert():
    grouping = Taxonomy.from_dict(SMALL).grouping("per_class")
    assert grouping.names == (REST, "road", "car", "bus")
    assert [int(grouping.expert_of_class[i]) for i in (0, 4, 7, 9)] == [1, 2, 3, 0]


def test_a_mapping_serves_as_grouping():
    taxonomy = Taxonomy.from_dict(SMALL)
    given, named = taxonomy.grouping({"cars": ["car"], "buses": ["bus"]}), taxonomy.grouping("wheels")
    assert given.names == named.names == (REST, "cars", "buses")
    assert np.array_equal(given.expert_of_class, named.expert_of_class)


def test_cityscapes_prompts():
    taxonomy = Taxonomy.load("cityscapes")
    special = {8: "vegetation, trees, bushes", 9: "terrain, ground, grass", 12: "rider, cyclist"}
    for row in taxonomy.classes:
        assert taxonomy.prompt_of(row.id) == special.get(row.id, row.name)
    assert taxonomy.prompt_of(19) == ""
    assert taxonomy.is_thing(11) and not taxonomy.is_thing(10) and not taxonomy.is_thing(19)


def test_unknown_ids_are_refused_and_reported():
    taxonomy = Taxonomy.from_dict(SMALL)
    with pytest.raises(ConfigError, match="no class id 5"):
        taxonomy.prompt_of(5)
    classes = np.array([[0, 4, 7, 9], [5, 5, 255, 0]], dtype=np.uint8)
    problems = taxonomy.check(PanopticMap(segment_id=np.zeros((2, 4), dtype=np.int32), class_id=classes))
    assert len(problems) == 2
    assert "5 (2 pixels)" in problems[0] and "255 (1 pixels)" in problems[1] and "9" in problems[0]
    assert taxonomy.palette[[0, 4, 5, 9]].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]]


def test_own_yaml_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert Taxonomy.load(path) == Taxonomy.load(str(path)) == Taxonomy.from_dict(SMALL)


def test_all_problems_come_in_one_error():
    plain = copy.deepcopy(SMALL)
    plain["classes"][1]["id"] = 0
    plain["classes"][2]["name"] = "road"
    plain["classes"][0]["colour"] = [1, 2, 300]
    plain["classes"].append({"id": 400, "name": "sky", "thing": "no", "colour": [0, 0, 0]})
    plain["classes"].append({"id": 5, "nmae": "dog", "thing": True, "colour": [0, 0, 0]})
    plain["groupings"]["wheels"] = {"rest": ["sky"], "cars": ["carr", "sky"], "none": []}
    plain["groupings"]["per_class"] = {"a": ["sky"]}
    plain["void_id"] = 0
    with pytest.raises(ConfigError) as caught:
        Taxonomy.from_dict(plain)
    text = str(caught.value)
    for part in [
        "id 0 is used by 2",
        "name 'road' is used by 2",
        "[1, 2, 300]",
        "got 400",
        "got 'no'",
        "did you mean 'name'",
        "lacks 'name'",
        "called 'carr' (did you mean 'car'?)",
        "'sky' is named 2 times",
        "group 'none' is empty",
        "'rest' is made of",
        "'per_class' is built in",
        "void_id 0 is also a class",
    ]:
        assert part in text


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda t: Taxonomy.load("cityscape"), "did you mean 'cityscapes'"),
        (lambda t: Taxonomy.load("nowhere.yaml"), "Cannot read"),
        (lambda t: t.grouping("wheel"), "did you mean 'wheels'"),
        (lambda t: t.grouping({"a": ["cra"]}), "did you mean 'car'"),
        (lambda t: t.grouping({}), "no groups"),
        (lambda t: t.grouping({"a": "car"}), "list of class names"),
        (lambda t: Taxonomy.from_dict({**SMALL, "classes": 3}), "classes must be a list"),
        (lambda t: Taxonomy.from_dict({**SMALL, "classes": []}), "no classes"),
        (lambda t: Taxonomy.from_dict([]), "is a mapping"),
    ],
)
def test_mistakes_are_explained(call, complaint):
    with pytest.raises(ConfigError, match=complaint):
        call(Taxonomy.from_dict(SMALL))


def test_a_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("classes: [}")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        Taxonomy.load(path)


def test_importing_needs_no_torch():
    code = "import sys, mamoe.vocabulary.taxonomy, mamoe.vocabulary.panoptic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def _groups(grouping, ids):
    members = [tuple(i for i in ids if grouping.expert_of_class[i] == e) for e in range(grouping.num_experts)]
    return set(members)
