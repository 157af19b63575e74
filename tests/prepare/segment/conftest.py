import numpy as np
import pytest
from PIL import Image

from tiny_segmenters import FAMILIES, tiny_segmenter


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda make: make.__name__)
def network(request, tmp_path_factory):
    """The folder of a tiny network of each family."""
    return tiny_segmenter(request.param, tmp_path_factory.mktemp("network") / request.param.__name__)


@pytest.fixture
def photos(tmp_path):
    """Five pictures, two of them of another size."""
    rng = np.random.default_rng(0)
    for i in range(5):
        size = (48, 80, 3) if i < 3 else (90, 70, 3)
        path = tmp_path / "photos" / f"street{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
    return tmp_path / "photos"
