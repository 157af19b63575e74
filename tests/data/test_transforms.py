import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from mamoe.data.geometry.joint import Crop, Geometry
from mamoe.errors import ConfigError

VOID = 19


def _planes(height, width):
    """Planes that say where each pixel came from: R = row block, G = column block, B = 3."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None, :].expand(height, width)
    return torch.stack([rows, columns, torch.full((height, width), 3, dtype=torch.uint8)])


def _pair(height=48, width=96):
    """A picture with the map's own planes as colours, so that any misalignment shows."""
    planes = _planes(height, width)
    return planes.clone(), planes


@pytest.mark.parametrize("crop", [None, "random", "center"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_picture_and_map_move_together(crop, flip):
    image, planes = _pair()
    geometry = Geometry(size=(24, 48), crop=crop, flip=flip)
    for seed in range(5):
        torch.manual_seed(seed)
        moved, ids, _ = geometry(image, planes, VOID)
        assert moved.shape == ids.shape == (3, 24, 48)
        # Halved linear ramps: bicubic gives the mean position, nearest-exact the lower neighbour of the centre.
        error = (moved.int() - ids.int()).abs()
        assert error.max() <= 1 and (ids[2] == 3).all()


def test_no_resize_leaves_every_byte_in_place():
    image, planes = _pair(24, 48)
    moved, ids, _ = Geometry(size=(24, 48))(image, planes, VOID)
    assert torch.equal(moved, image) and torch.equal(ids, planes)
    moved, ids, _ = Geometry(size=(24, 48), flip=1.0)(image, planes, VOID)
    assert torch.equal(moved, image.flip(-1)) and torch.equal(ids, planes.flip(-1))


def test_flip_commutes_with_the_resize():
    image, planes = _pair(40, 80)
    straight = Geometry(size=(24, 48))(image, planes, VOID)
    flipped = Geometry(size=(24, 48), flip=1.0)(image, planes, VOID)
    assert torch.equal(flipped[1].flip(-1), Geometry(size=(24, 48))(image.flip(-1), planes.flip(-1), VOID)[1].flip(-1))
    assert (straight[0].int() - flipped[0].flip(-1).int()).abs().max() <= 1  # rounding of bicubic weights


@pytest.mark.parametrize(
    ("height", "width", "size"), [(30, 50, (16, 24)), (16, 24, (40, 64)), (33, 47, (32, 48)), (32, 72, (16, 24))]
)
def test_map_resize_is_nearest_exact(height, width, size):
    image, planes = _pair(height, width)
    _, ids, _ = Geometry(size=size)(image, planes, VOID)
    rows = np.floor((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    columns = np.floor((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    assert np.array_equal(ids.numpy(), planes.numpy()[:, rows][:, :, columns])


def test_crops_differ_by_seed_and_are_windows_of_the_covering_resize():
    image, planes = _pair(48, 96)
    geometry = Geometry(size=(48, 48), crop="random")
    starts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        _, ids, _ = geometry(image, planes, VOID)
        start = int(ids[1, 0, 0])
        starts.add(start)
        assert torch.equal(ids, planes[:, :, start : start + 48])
    assert len(starts) > 4


@pytest.mark.parametrize("size", [(48, 48), (40, 96), 32])
@pytest.mark.parametrize("crop", [None, "random", "center"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_framing_says_where_the_picture_was_cut_out(size, crop, flip):
    height, width = 96, 200
    place = np.stack([np.arange(height).repeat(width), np.tile(np.arange(width), height)]).reshape(2, height, width)
    planes = torch.from_numpy(np.concatenate([place, place[:1]]).astype(np.uint8))
    torch.manual_seed(1)
    geometry = Geometry(size=size, crop=crop, flip=flip)
    _, ids, framing = geometry(planes, planes, VOID)
    assert framing.original == (height, width) and framing.target == tuple(ids.shape[-2:])
    covered = geometry._resized_size(height, width)
    resized = v2.functional.resize_image(planes, list(covered), interpolation=v2.InterpolationMode.NEAREST_EXACT)
    resized = resized.flip(-1) if flip else resized  # cut out of the mirrored picture
    (top, left), (rows, columns) = framing.crop, framing.target
    assert torch.equal(ids, resized[:, top : top + rows, left : left + columns])


def test_evaluation_is_never_random():
    image, planes = _pair(48, 96)
    geometry = Geometry(size=(48, 48), crop="random", flip=0.5, extra=[v2.RandomInvert(p=0.5)]).for_evaluation()
    state = torch.get_rng_state()
    results = []
    for seed in range(6):
        torch.manual_seed(seed)
        results.append(geometry(image, planes, VOID))
    torch.set_rng_state(state)
    assert all(torch.equal(i, results[0][0]) and torch.equal(p, results[0][1]) for i, p, _ in results)
    assert torch.equal(results[0][1], planes[:, :, 24:72])


@pytest.mark.parametrize(("height", "width"), [(50, 117), (117, 50), (64, 64), (20, 61), (375, 1242)])
@pytest.mark.parametrize("crop", [None, "random", "center"])
def test_short_side_gives_multiples_of_eight(height, width, crop):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    moved, ids, _ = Geometry(size=32, crop=crop)(image, image, VOID)
    assert moved.shape == ids.shape and moved.shape[1] % 8 == moved.shape[2] % 8 == 0
    if crop is None:
        long = 32 * max(height, width) / min(height, width)
        assert min(moved.shape[1:]) == 32 and 0 <= math.ceil(long) - max(moved.shape[1:]) <= 8
    else:
        assert moved.shape[1:] == (32, 32)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"size": (30, 48)}, "divisible by 8"),
        ({"size": 30}, "divisible by 8"),
        ({"size": (32, 0)}, "positive"),
        ({"size": (32, 32, 32)}, "height, width"),
        ({"size": 32, "crop": "centre"}, "random, center"),
        ({"size": 32, "flip": 1.5}, "probability"),
    ],
)
def test_wrong_settings_are_explained(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Geometry(**settings)


def test_settings_accept_what_yaml_gives():
    geometry = Geometry(size=[32, 64], crop="random", extra=[])
    assert geometry.size == (32, 64) and geometry.crop is Crop.RANDOM


def test_colour_transforms_leave_the_map_alone():
    image, planes = _pair()
    moved, ids, _ = Geometry(size=(48, 96), extra=[v2.RandomInvert(p=1.0)])(image, planes, VOID)
    assert torch.equal(moved, 255 - image) and torch.equal(ids, planes)


def test_pixels_turned_in_from_outside_become_void():
    image, planes = _pair(64, 64)
    torch.manual_seed(0)
    _, ids, _ = Geometry(size=(64, 64), extra=[v2.RandomRotation((45, 45))])(image, planes, VOID)
    corners = ids[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners[2].tolist() == [VOID] * 4 and not corners[:2].any()
    assert set(ids[2].unique().tolist()) == {3, VOID}


@pytest.mark.parametrize(
    ("transform", "complaint"),
    [
        (v2.Resize((8, 8)), "keep the size"),
        (v2.ToDtype(torch.float32), "keep the size and bytes"),
        (v2.Normalize([0.5] * 3, [0.5] * 3), "Normalize.*fails"),
    ],
)
def test_transforms_that_do_not_fit_are_named(transform, complaint):
    image, planes = _pair()
    with pytest.raises(ConfigError, match=complaint):
        Geometry(size=(48, 96), extra=[transform])(image, planes, VOID)


def test_nothing_given_is_changed():
    image, planes = _pair()
    before = image.clone(), planes.clone()
    Geometry(size=(24, 48), flip=1.0, extra=[v2.RandomInvert(p=1.0)])(image, planes, VOID)
    assert torch.equal(image, before[0]) and torch.equal(planes, before[1])
