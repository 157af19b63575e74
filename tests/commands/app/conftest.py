from pathlib import Path

import pytest

from mamoe.commands.app.serve import load_studio
from mamoe.commands.app.studio import Studio


@pytest.fixture(scope="session")
def studio(finished_run) -> Studio:
    """A model of random weights that draws 64x64 in a moment. Look, do not touch."""
    return load_studio(Path(finished_run), data=None, checkpoint="latest", base=None, device="cpu", precision=None)
