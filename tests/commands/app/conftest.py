import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serving import Served

from mamoe import LayoutPipeline
from mamoe.commands.app.serve import load_studio
from mamoe.commands.app.studio import Studio
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy


@pytest.fixture(scope="session")
def saved_pipeline(base_model, tmp_path_factory) -> Path:
    """A saved pipeline of random weights that reads a prompt per segment, but none of the whole picture."""
    base = LayoutPipeline.from_pretrained(base_model)
    settings = LayoutSettings(taxonomy=Taxonomy.load("scenes"), grouping="streets", global_prompt=False)
    unet = MaMoEUNet2DConditionModel.from_unet(base.unet, num_experts=settings.num_experts)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in unet.named_parameters():  # what a cell is told must be seen in the picture
            if ".attn2." in name:
                weight *= 3
    folder = tmp_path_factory.mktemp("app") / "a_town"
    LayoutPipeline(**{**base.components, "unet": unet}, layout=settings.to_dict()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def studio(saved_pipeline, scenes) -> Studio:
    """A model that draws 64x64 in a moment, with the maps of a data set. Look, do not touch."""
    return load_studio(saved_pipeline, data=scenes, checkpoint="latest", base=None, device="cpu", precision=None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next((found for name in names if (found := shutil.which(name))), None)
        own = Path(started.chromium.executable_path)
        if path is None and not own.is_file():
            pytest.skip("no Chromium")
        chromium = started.chromium.launch(executable_path=path or own)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def served(studio) -> Iterator[Served]:
    one = Served(studio)
    yield one
    one.stop()


@pytest.fixture
def context(browser) -> Iterator:
    made = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    yield made
    made.close()


@pytest.fixture
def tab(context, served) -> Iterator:
    from browsing import Tab

    opened = Tab(context, served.address)
    yield opened
    assert not opened.faults
