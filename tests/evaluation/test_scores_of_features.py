"""Scores, their names and intervals, and copying, from features alone."""

import pytest
import torch
from PIL import Image

from mamoe.evaluation.copying import copy_sheet, copying
from mamoe.evaluation.distances.family import Kind, better, measure, method, score_name
from mamoe.evaluation.distances.frechet import frechet_distance, gaussian
from mamoe.evaluation.distances.kernels import kid
from mamoe.evaluation.features.extractors import ExtractorName
from mamoe.evaluation.features.store import Features
from mamoe.evaluation.protocol import Better, Over
from mamoe.randomness import generator_for


def features(n: int, seed: int, shift: float = 0.0, d: int = 12, extractor: str = "net") -> Features:
    values = torch.randn(n, d, generator=generator_for(seed, "features")) + shift
    names = tuple(f"{seed}_{i}.png" for i in range(n))
    return Features(values=values, extractor=extractor, preprocessing="none", names=names)


def test_every_kind_has_a_number_and_an_interval_around_it():
    x, y = features(60, 0, 0.3), features(70, 1)
    found = measure(list(Kind), x, y)
    assert list(found) == list(Kind)
    for kind, measured in found.items():
        assert measured.value is not None and measured.interval is not None
        assert measured.interval.low <= measured.value <= measured.interval.high, kind
    assert found[Kind.FID].value == frechet_distance(gaussian(x.values), gaussian(y.values))
    assert found[Kind.KID].value == pytest.approx(kid(x.values, y.values), rel=1e-12)
    assert measure(list(Kind), x, y) == found != measure(list(Kind), x, y, seed=1)


def test_several_pictures_of_a_layout_make_nothing_surer():
    """Each picture four times: what is a mean over pairs or pictures stays as it is, and as sure as it was."""
    x, y = features(40, 0, 0.3), features(70, 1)
    values, names = x.values.repeat_interleave(4, 0), tuple(map(str, range(160)))
    four = Features(values=values, extractor="net", preprocessing="none", names=names)
    layouts = torch.arange(40).repeat_interleave(4).tolist()
    kinds = [Kind.CMMD, Kind.PRECISION]
    once, again, naive = measure(kinds, x, y), measure(kinds, four, y, layouts=layouts), measure(kinds, four, y)
    for kind in kinds:
        assert again[kind].value == pytest.approx(once[kind].value), kind
        a, b = again[kind].interval, once[kind].interval
        assert a.over is Over.LAYOUTS and (a.low, a.high) == pytest.approx((b.low, b.high)), kind
        assert naive[kind].interval.high - naive[kind].interval.low < 0.8 * (a.high - a.low), kind
    single = measure([*kinds, Kind.FID], four, y, layouts=[0] * 160)
    assert all(found.value is not None and found.interval is None for found in single.values())


def test_unit_length_is_what_cmmd_compares():
    x, y = features(30, 0, 0.3), features(30, 1)
    far = Features(values=5 * x.values, extractor="net", preprocessing="none", names=x.names)
    assert measure([Kind.CMMD], far, y)[Kind.CMMD].value == pytest.approx(measure([Kind.CMMD], x, y)[Kind.CMMD].value)


@pytest.mark.parametrize("kind, shift", [(Kind.KID, 0.3), (Kind.CMMD, 0.3), (Kind.FID, 0.3)])
def test_intervals_are_as_wide_as_fresh_samples(kind, shift):
    """Against the spread over new samples of both sets."""
    fresh = torch.tensor(
        [measure([kind], features(60, 2 * s, shift), features(60, 2 * s + 1))[kind].value for s in range(60)]
    )
    widths = []
    for s in range(5):
        interval = measure([kind], features(60, 2 * s, shift), features(60, 2 * s + 1))[kind].interval
        assert interval is not None
        widths.append((interval.high - interval.low) / (2 * 1.96))
    assert float(torch.tensor(widths).mean()) == pytest.approx(float(fresh.std()), rel=0.4)


def test_too_few_pictures_are_said():
    found = measure(list(Kind), features(5, 0), features(70, 1))
    assert found[Kind.DENSITY].value is None and "wants 6 pictures of each kind, got 5" in (
        found[Kind.DENSITY].missing or ""
    )
    assert "wants 30" in (found[Kind.FID_INFINITY].missing or "")
    assert found[Kind.FID].value is not None
    single = measure(list(Kind), features(1, 0), features(70, 1))
    assert all(measured.value is None for measured in single.values())


def test_only_published_networks_bear_published_names():
    names = {score_name(kind, extractor): (kind, extractor) for kind in Kind for extractor in ExtractorName}
    assert len(names) == len(Kind) * len(ExtractorName)
    published = {n for n in names if n.startswith(("FID", "KID", "CMMD"))}
    assert published == {"FID", "FID-clean", "FID-infinity", "FID-infinity-clean", "KID", "KID-clean", "CMMD"}
    assert names["FID"] == (Kind.FID, ExtractorName.INCEPTION)
    assert names["FD-DINOv2"] == (Kind.FID, ExtractorName.DINOV2)
    assert names["FD-alexnet"] == (Kind.FID, ExtractorName.ALEXNET)
    assert len({method(kind) for kind in Kind}) == len(Kind)
    assert better(Kind.FID) is Better.LOWER and better(Kind.COVERAGE) is Better.HIGHER


def test_features_of_another_extractor_are_refused():
    with pytest.raises(ValueError, match="another extractor"):
        measure([Kind.FID], features(9, 0), features(9, 1, extractor="other net"))
    with pytest.raises(ValueError, match="another extractor"):
        copying(features(9, 0), features(9, 1, extractor="other net"), features(9, 2))


def test_training_pictures_are_copies_and_fresh_ones_are_not():
    train, held_out = features(400, 0), features(400, 1)
    copies = copying(train, train, held_out)
    assert copies.rate.value == 1 and float(copies.distances.max()) < 1e-5
    assert copies.gap.value is not None and copies.gap.value > 0.5
    fresh = copying(features(400, 2), train, held_out)
    assert fresh.rate.value == pytest.approx(0.05, abs=0.03)
    assert fresh.gap.value == pytest.approx(0, abs=0.05)
    assert fresh.rate.interval is not None and fresh.rate.interval.high < 0.12


def test_half_copies():
    train, held_out, new = features(300, 0), features(300, 1), features(100, 2)
    noise = torch.randn(100, 12, generator=generator_for(3, "noise"))
    mixed = torch.cat([train.values[100:200] + 1e-3 * noise, new.values])
    found = copying(Features(values=mixed, extractor="net", preprocessing="none", names=("",) * 200), train, held_out)
    assert found.rate.value == pytest.approx(0.525, abs=0.03)
    assert torch.equal(found.neighbours[:100], torch.arange(100, 200))


def test_copying_needs_held_out_pictures():
    found = copying(features(30, 0), features(30, 1), features(19, 2))
    assert found.rate.missing == found.gap.missing == "wants 20 held-out pictures, got 19"
    seen = copying(features(30, 0), features(30, 1), features(30, 1))
    assert "training pictures too" in (seen.rate.missing or "")


def test_sheet_shows_the_closest_pairs_first(tmp_path):
    train, held_out = features(30, 0), features(30, 1)
    drawn = Features(
        values=torch.cat([features(3, 2).values, train.values[7:8]]), extractor="net", preprocessing="none", names=()
    )
    paths = []
    for name, colour in (
        ("a", "red"),
        ("b", "red"),
        ("c", "red"),
        ("copy", "blue"),
        *((str(i), "lime") for i in range(30)),
    ):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (20, 10), colour).save(paths[-1])
    sheet = copy_sheet(copying(drawn, train, held_out), paths[:4], paths[4:], pairs=3)
    assert sheet.getpixel((5, 20)) == (0, 0, 255)  # the copy, first of all
    assert sheet.getpixel((29, 20)) == (0, 255, 0)  # its training picture beside it
    assert sheet.size == (2 * (44 + 4), 2 * (26 + 4))
