"""Labels of a network as classes: by name, or as the user says; shown before anything is done."""

import pytest

from mamoe.errors import ConfigError
from mamoe.prepare.segment.labels import meaning_of, read_said
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
LABELS = ["road, route", "Car", "chandelier", "van"]


def test_names_decide_and_the_user_before_them():
    meaning = meaning_of(LABELS, TAXONOMY, {"van": "truck", "Car": "void"}, "net")
    names = {row.id: row.name for row in TAXONOMY.classes}
    assert [names.get(i) for i in meaning.class_of] == ["road", None, None, "truck"]
    text = meaning.text()
    assert "2 of the network's 4 labels" in text and "van -> truck" in text
    assert "Labels that become void (--map LABEL=CLASS changes that): Car; chandelier" in text
    assert "no label means" in text and "sky" in text
    assert meaning.knows_stuff and not meaning_of(["car", "person"], TAXONOMY, {}, "net").knows_stuff


def test_what_is_said_wrongly_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no label 'vans', did you mean 'van'.*no class 'lorry'"):
        meaning_of(LABELS, TAXONOMY, {"vans": "car", "van": "lorry"}, "net")
    with pytest.raises(ConfigError, match="None of the labels of net"):
        meaning_of(["chandelier"], TAXONOMY, {}, "net")
    for wrong in ("van", "van=", "=car", "van=car,"):
        with pytest.raises(ConfigError, match="--map wants LABEL=CLASS"):
            read_said(wrong)
    with pytest.raises(ConfigError, match="Cannot read"):
        read_said(str(tmp_path / "map.yaml"))
    (tmp_path / "map.yaml").write_text("van: 3\n")
    with pytest.raises(ConfigError, match="must hold a class"):
        read_said(str(tmp_path / "map.yaml"))


def test_pairs_and_files_say_the_same(tmp_path):
    (tmp_path / "map.yaml").write_text("van: car\nroad, route: sidewalk\n")
    assert read_said(str(tmp_path / "map.yaml")) == {"van": "car", "road, route": "sidewalk"}
    assert read_said("van=car, Car = truck") == {"van": "car", "Car": "truck"} and read_said(None) == {}
