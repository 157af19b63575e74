"""While the suite runs, the shapes in the package's signatures hold (tests/shapes.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, Int32
from torch import Tensor

from mamoe.diffusion.losses.mse import mse_per_image
from mamoe.diffusion.parameterization import snr
from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy
from shapes import decorated, names_an_array


def test_sizes_that_should_agree_and_do_not_raise():
    with pytest.raises(BeartypeCallHintViolation, match="target"):
        mse_per_image(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 1))  # would broadcast in silence


def test_an_axis_too_many_raises():
    with pytest.raises(BeartypeCallHintViolation, match="timesteps"):
        snr(torch.linspace(0.9, 0.1, 10), torch.zeros(3, 1, dtype=torch.int64))


def test_another_kind_of_number_raises():
    with pytest.raises(BeartypeCallHintViolation, match="timesteps"):
        snr(torch.linspace(0.9, 0.1, 10), torch.zeros(3))


def test_the_right_shapes_pass():
    assert mse_per_image(torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)).tolist() == [1, 1]


def test_a_shape_is_found_inside_other_annotations():
    assert names_an_array(Float[Tensor, "B C"])
    assert names_an_array(list[tuple[int, Int32[np.ndarray, "H W"]]] | None)
    assert not names_an_array(list[Tensor] | dict[str, int])


def test_what_names_no_array_is_left_alone():
    def plain(count: int) -> str: ...

    assert decorated(plain) is plain and decorated(typechecker=None)(plain) is plain
    assert not hasattr(ddim_scheduler, "__wrapped__") and not hasattr(Taxonomy.__init__, "__wrapped__")


def test_what_a_decorator_has_wrapped_is_checked():
    @torch.no_grad()
    def doubled(x: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        return torch.cat([x, x])

    asked = decorated(doubled)
    assert asked is doubled
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        asked(torch.zeros(2, 3))
    with pytest.raises(BeartypeCallHintViolation, match="parameter x"):
        asked(torch.zeros(3))


def test_functions_and_dataclasses_with_arrays_are_wrapped():
    assert hasattr(snr, "__wrapped__") and hasattr(PanopticMap.__init__, "__wrapped__")
    with pytest.raises(BeartypeCallHintViolation, match="segment_id"):
        PanopticMap(segment_id=np.zeros((2, 3, 1), np.int32), class_id=np.zeros((2, 3), np.uint8))
