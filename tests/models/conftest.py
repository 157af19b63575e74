import pytest
import torch

from small_models import models as models


@pytest.fixture
def compilable(shapes_unchecked: None) -> None:
    """For tests of torch.compile.

    The wrapper that checks shapes is one piece of code for all functions, and torch.compile gives up on code that it
    has compiled too often: every test begins anew.
    """
    torch.compiler.reset()
