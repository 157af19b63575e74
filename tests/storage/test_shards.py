"""Shards of tensors: shared by processes, damaged, foreign, abandoned."""

import itertools
import multiprocessing
import os
import pickle
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mamoe.storage.fingerprints import fingerprint_of
from mamoe.storage.shards import ABANDONED, CacheError, ShardFolder

ONE, TWO = {"one": torch.arange(6.0).reshape(2, 3)}, {"two": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def folder(tmp_path) -> ShardFolder:
    shards = ShardFolder(tmp_path / "cache", "A")
    shards.add(ONE)
    shards.add(TWO)
    return shards


def files(folder: ShardFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.folder.iterdir()}


def test_what_was_added_is_found_by_everyone(folder):
    for reader in (folder, ShardFolder(folder.folder, "A"), pickle.loads(pickle.dumps(folder))):
        assert torch.equal(reader.get("one"), ONE["one"]) and torch.equal(reader.get("two"), TWO["two"])
        assert len(reader) == 2 and "one" in reader and "three" not in reader and reader.get("three") is None
    assert folder.nbytes == sum(map(len, files(folder).values()))


def test_a_reader_learns_of_new_shards_when_it_asks(folder):
    reader = ShardFolder(folder.folder, "A")
    folder.add({"three": torch.zeros(1)})
    assert "three" not in reader
    reader.refresh()
    assert "three" in reader


def test_one_flipped_bit_is_noticed_and_the_file_stays(folder):
    path = next(p for p, content in files(folder).items() if b'"one"' in content)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    before = files(folder)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged and left out"):
        reader = ShardFolder(folder.folder, "A")
    assert "one" not in reader and "two" in reader
    reader.add(ONE)
    assert {p: c for p, c in files(reader).items() if p in before} == before
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(ShardFolder(folder.folder, "A").get("one"), ONE["one"])


def test_a_foreign_shard_is_refused_naming_both_sides(folder, tmp_path):
    other = ShardFolder(tmp_path / "other", "B")
    for path in folder.folder.iterdir():
        path.rename(other.folder / path.name)
    with pytest.warns(UserWarning, match="made with A but belongs to a cache of B"):
        other.refresh()
    assert len(other) == 0 and len(files(other)) == 2
    save_file(ONE, other.folder / "bare.safetensors")
    with pytest.warns(UserWarning, match="made with None"):
        other.refresh()


def test_a_shard_that_disappears_is_a_clear_error(folder):
    reader = pickle.loads(pickle.dumps(folder))
    for path in folder.folder.iterdir():
        path.unlink()
    with pytest.raises(CacheError, match="was there and cannot be read any more"):
        reader.get("one")


def test_only_abandoned_files_are_cleared_away(folder):
    old, young = folder.folder / "old.tmp", folder.folder / "young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - ABANDONED - 60,) * 2)
    ShardFolder(folder.folder, "A")
    assert young.exists() and not old.exists()


def write_for_ever(folder: Path) -> None:
    shards = ShardFolder(folder, "A")
    for i in itertools.count():
        shards.add({f"w {i}": torch.full((64, 64), float(i))})


def test_a_killed_writer_leaves_sound_shards_and_no_lock(tmp_path):
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path,))
    writer.start()
    while len(list(tmp_path.glob("*.safetensors"))) < 20:
        time.sleep(0.001)
    writer.kill()
    writer.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no shard is damaged
        after = ShardFolder(tmp_path, "A")
    assert len(after) == len(list(tmp_path.glob("*.safetensors"))) >= 20
    assert all(torch.equal(after.get(f"w {i}"), torch.full((64, 64), float(i))) for i in range(len(after)))
    after.add(ONE)
    assert "one" in ShardFolder(tmp_path, "A")


def test_fingerprints_know_values_shapes_types_names_and_description():
    weights = {"a": torch.randn(40, 40), "b": torch.randn(3)}
    one = fingerprint_of("kind", weights)
    assert one == fingerprint_of("kind", {name: value.clone() for name, value in weights.items()})
    others = [
        fingerprint_of("other", weights),
        fingerprint_of("kind", {**weights, "a": weights["a"] * 1.001}),
        fingerprint_of("kind", {**weights, "a": weights["a"].reshape(20, 80)}),
        fingerprint_of("kind", {**weights, "b": weights["b"].bfloat16()}),
        fingerprint_of("kind", {"a": weights["a"], "c": weights["b"]}),
    ]
    assert len({one, *others}) == 6


def test_shards_are_plain_safetensors(folder):
    (path,) = (p for p, content in files(folder).items() if b'"one"' in content)
    assert torch.equal(load_file(path)["one"], ONE["one"])


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot be made: .*Choose another cache\.folder"):
        ShardFolder(tmp_path / "file" / "A", "A")


def test_what_somebody_else_abandoned_is_left_alone(folder, monkeypatch):
    other = folder.folder / "abandoned.tmp"
    other.write_bytes(b"")
    os.utime(other, (0, 0))

    def refused(self, missing_ok=False):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refused)
    assert len(ShardFolder(folder.folder, "A")) == 2 and other.exists()
