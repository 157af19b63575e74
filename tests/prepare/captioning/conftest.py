import shutil
from pathlib import Path

import pytest

from factories import drawn_data
from fake_openai import SENTINEL, FakeOpenAI, fake_openai


@pytest.fixture
def server(monkeypatch) -> FakeOpenAI:
    """A running fake server; the key is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    with fake_openai() as fake:
        yield fake


@pytest.fixture(scope="session")
def drawn_town(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("town") / "town", {"train": 8, "val": 3}, height=96, width=160)


@pytest.fixture
def town(drawn_town, tmp_path) -> Path:
    """Eleven pictures with maps and without a prompt."""
    folder = tmp_path / "town"
    shutil.copytree(drawn_town, folder)
    for path in [*folder.glob("prompts_*.csv"), *folder.glob("instance_prompts_*.json")]:
        path.unlink()
    (folder / "data.yaml").write_text("taxonomy: scenes\nsize: [96, 160]\n")
    return folder
