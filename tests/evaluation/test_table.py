import csv
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from mamoe.evaluation.protocol import (
    Better,
    Generation,
    Interval,
    Over,
    Protocol,
    ProtocolError,
    Score,
    conflicts,
    hash_of_files,
    hash_of_names,
    library_versions,
)
from mamoe.evaluation.table import Row, Table, joined

GENERATION = Generation(mode="cfg", sampler="DDIMScheduler", steps=50, guidance=4.0)
PROTOCOL = Protocol(
    name="Frechet distance",
    extractor="net 1",
    preprocessing="resize 299",
    reference="aaaa",
    images="bbbb",
    generation=GENERATION,
    versions={"torch": "2"},
)
INTERVAL = Interval(low=1.5, high=2.5, over=Over.IMAGES)
SCORE = Score(name="FID", value=2.0, n=40, interval=INTERVAL, better=Better.LOWER, protocol=PROTOCOL)
FLOOR = replace(SCORE, value=0.5, interval=None, protocol=replace(PROTOCOL, generation=None, images="cccc"))
ABSENT = replace(SCORE, value=None, interval=None, missing="3 pictures | wanted 10", n=3)


def table(**rows: Score) -> Table:
    return Table(rows=tuple(Row(label=label, scores=(score,)) for label, score in rows.items()))


def test_json_round_trip():
    made = table(cfg=SCORE, floor=FLOOR, few=ABSENT)
    assert Table.from_dict(json.loads(made.json())) == made


def test_a_number_is_never_silent():
    with pytest.raises(ValueError, match="reason why"):
        replace(SCORE, value=None, interval=None)
    with pytest.raises(ValueError, match="reason why"):
        replace(SCORE, missing="too few")
    with pytest.raises(ValueError, match="nan"):
        replace(SCORE, value=float("nan"))
    with pytest.raises(ValueError, match="does not belong"):
        replace(SCORE, interval=Interval(low=2, high=1, over=Over.IMAGES))
    with pytest.raises(ValueError, match="no score"):
        Score.from_dict({"name": "FID"})
    with pytest.raises(ValueError, match="format 7"):
        Table.from_dict({"format": 7})


@pytest.mark.parametrize(
    "change, word",
    [
        ({"extractor": "net 2"}, "extractor 'net 1' against 'net 2'"),
        ({"preprocessing": "clean"}, "preprocessing 'resize 299' against 'clean'"),
        ({"reference": "dddd"}, "reference pictures 'aaaa' against 'dddd'"),
        ({"images": "dddd"}, "picture list 'bbbb' against 'dddd'"),
        ({"generation": replace(GENERATION, steps=20)}, "steps 50 against 20"),
        ({"generation": replace(GENERATION, guidance=7.5)}, "guidance 4.0 against 7.5"),
        ({"generation": replace(GENERATION, sampler="Euler")}, "sampler 'DDIMScheduler' against 'Euler'"),
    ],
)
def test_numbers_of_different_protocols_are_refused(change, word):
    other = replace(SCORE, protocol=replace(PROTOCOL, **change))
    with pytest.raises(ProtocolError) as refusal:
        joined([table(ours=SCORE), table(theirs=other)])
    assert word in str(refusal.value) and "'ours' and of 'theirs'" in str(refusal.value)
    assert conflicts(PROTOCOL, PROTOCOL) == []


def test_modes_floors_and_versions_may_stand_together():
    uncond = replace(PROTOCOL, generation=replace(GENERATION, mode="uncond", guidance=0.0), versions={"torch": "3"})
    made = table(cfg=SCORE, uncond=replace(SCORE, protocol=uncond), floor=FLOOR)
    assert made.columns == ["FID"]


def test_every_pair_of_a_column_is_looked_at():
    """A floor in the first row fits to everything; the two drawn rows below do not fit to each other."""
    other = replace(SCORE, protocol=replace(PROTOCOL, generation=replace(GENERATION, steps=20)))
    with pytest.raises(ProtocolError, match="steps"):
        table(floor=FLOOR, a=SCORE, b=other)


def test_rows_and_scores_have_one_name_each():
    with pytest.raises(ValueError, match="two scores called FID"):
        Row(label="a", scores=(SCORE, SCORE))
    with pytest.raises(ValueError, match="two rows called a"):
        joined([table(a=SCORE), table(a=SCORE)])


def test_markdown_and_csv():
    other = replace(SCORE, name="recall", value=0.25, better=Better.HIGHER)
    made = joined([table(cfg=SCORE, few=ABSENT), table(floor=other)])
    lines = made.markdown().splitlines()
    assert lines[0] == "| score | cfg | few | floor |"
    assert lines[2] == "| FID ↓ | 2 [1.5, 2.5] (n=40) | n/a (3 pictures \\| wanted 10) | not measured |"
    assert lines[3] == "| recall ↑ | not measured | not measured | 0.25 [1.5, 2.5] (n=40) |"
    assert "bootstrap over images" in lines[-1]
    rows = list(csv.DictReader(io.StringIO(made.csv())))
    assert [row["value"] for row in rows] == ["2.0", "", "0.25"]
    assert rows[0]["steps"] == "50" and rows[0]["reference"] == "aaaa" and rows[0]["versions"] == "torch=2"


def test_hashes_know_contents_and_not_order(tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    for path, grey in ((a, 1), (b, 2)):
        Image.new("L", (2, 2), grey).save(path)
    before = hash_of_files([a, b])
    assert hash_of_files([b, a]) == before and len(before) == 16
    assert hash_of_names(["b", "a"]) == hash_of_names(["a", "b"]) != hash_of_names(["a"])
    Image.new("L", (2, 2), 3).save(b)
    assert hash_of_files([a, b]) != before != hash_of_files([a])


def test_versions_are_those_installed():
    import torch

    assert library_versions()["torch"] == torch.__version__.partition("+")[0]
