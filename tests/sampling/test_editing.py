"""Pictures changed: from a picture, a painted part of it, one of its instances."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from mamoe.errors import MamoeError
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.models.latents import LatentScaling
from mamoe.sampling.editing import weights_of
from mamoe.vocabulary.panoptic import PanopticMap

STEPS = 5
SAME = 1e-4
CAR = {7: "a red car"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe, **arguments) -> np.ndarray:
    given = {"num_inference_steps": STEPS, "output_type": "np", "generator": seeded(0), **arguments}
    return pipe(**given).images


@pytest.fixture
def photo() -> np.ndarray:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    return np.stack([np.tile(ramp, (32, 1)), np.tile(ramp[::-1], (32, 1)), np.full((32, 48), 90, np.uint8)], axis=-1)


def as_latents(pipe, photo) -> torch.Tensor:
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        return LatentScaling.of(pipe.vae).scaled(posterior_of(pipe.vae, pixels).mean)


# Against diffusers' own pipelines, which take the same latents in place of the picture.

ASKED = {"num_inference_steps": STEPS, "guidance_scale": 3.0}


@pytest.fixture
def parts_of_stock(make_pipe):
    def build(kind, ours):
        named = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        stock = kind(
            **{name: ours.components[name] for name in named},
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        stock.set_progress_bar_config(disable=True)
        return stock

    return build


@pytest.mark.parametrize("strength", [0.3, 0.8, None])
def test_a_picture_to_begin_with_is_img2img(make_pipe, parts_of_stock, photo, strength):
    ours = make_pipe(layout=False, zero_snr=False)
    stock = parts_of_stock(StableDiffusionImg2ImgPipeline, ours)
    asked = ASKED if strength is None else {**ASKED, "strength": strength}
    wanted = stock("a street", image=as_latents(ours, photo), generator=seeded(3)[0], output_type="np", **asked).images
    got = draw(ours, prompt="a street", image=Image.fromarray(photo), generator=seeded(3), **asked)
    assert np.abs(wanted - got).max() < SAME


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_painted_part_is_inpainting(make_pipe, parts_of_stock, photo, strength):
    ours = make_pipe(layout=False, zero_snr=False)
    stock = parts_of_stock(StableDiffusionInpaintPipeline, ours)
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[8:24, 16:40] = 255
    shared = {**ASKED, "strength": strength, "output_type": "latent"}
    wanted = stock(
        "a street", image=as_latents(ours, photo), mask_image=Image.fromarray(mask), height=32, width=48,
        masked_image_latents=torch.zeros(1, 4, 4, 6), generator=seeded(0)[0], **shared,
    ).images  # fmt: skip
    got = draw(ours, prompt="a street", image=photo, mask_image=mask, border=0, **shared)
    assert float((wanted - got).abs().max()) < SAME


# What is kept.


def test_outside_the_border_no_pixel_changes(pipe, make_map, photo):
    """Stronger than what the autoencoder alone would do to them: they are the picture's own, to the last bit."""
    panoptic = make_map()
    again = draw(pipe, panoptic=panoptic, instance_prompts=CAR, image=photo, only_instances=7, output_type="pil")[0]
    changed = np.abs(np.asarray(again).astype(int) - photo).max(axis=-1)
    car = panoptic.segment_id == 7
    within = weights_of(torch.from_numpy(car)[None], 8)[0, 0].numpy()
    assert changed[within == 0].max() == 0 and (within == 0).any()
    with torch.no_grad():
        unscaled = LatentScaling.of(pipe.vae).unscaled(as_latents(pipe, photo))
        rebuilt = decoded(pipe.vae, unscaled)[0].permute(1, 2, 0)
    floor = np.abs(((rebuilt / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(int) - photo).max()
    assert floor > 0 and np.median(changed[car]) > 0


def test_inside_it_is_what_the_whole_would_be(pipe, make_map):
    """With the picture's own noise and prompts the instance comes out as it was: neighbours are noised as they were."""
    asked = {"panoptic": make_map(), "instance_prompts": CAR, "generator": seeded(0), "guidance_scale": 1.0}
    latents = draw(pipe, **asked, output_type="latent")
    picture = draw(pipe, **asked, output_type="pil")[0]
    same, other = (
        draw(pipe, **{**asked, "generator": seeded(seed)}, image=picture, only_instances=[7], output_type="latent")
        for seed in (0, 9)
    )
    inside = torch.from_numpy((make_map().segment_id == 7).reshape(4, 8, 6, 8).all(axis=(1, 3)))
    assert inside.any()

    def off(one) -> float:
        return float((one - latents)[0, :, inside].abs().mean())

    assert off(same) < off(other)


def test_the_seed_decides_what_comes_instead(pipe, make_map, photo):
    asked = {"panoptic": make_map(), "instance_prompts": CAR, "image": photo, "only_instances": [7]}
    one, again, other = (draw(pipe, **asked, generator=seeded(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and np.abs(one - other).max() > 1e-3


def test_instances_of_each_picture_and_a_picture_for_all(pipe, make_map, photo):
    maps = [make_map(0), make_map(1)]
    both = draw(pipe, panoptic=maps, image=photo, only_instances=[[7], [300]], generator=seeded(1, 2))
    for i, segment in enumerate((7, 300)):
        alone = draw(pipe, panoptic=maps[i], image=photo, only_instances=segment, generator=seeded(1 + i))
        assert np.abs(both[i] - alone[0]).max() < 1e-5
    several = draw(
        pipe,
        panoptic=maps,
        image=[photo, photo],
        only_instances=[[7], [300]],
        num_images_per_prompt=2,
        generator=seeded(1, 5, 2, 6),
    )
    assert np.abs(several[[0, 2]] - both).max() < 1e-5


def test_the_border_fades_in_whole_pixels():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    row = weights_of(mask, 2)[0, 0, 4]
    torch.testing.assert_close(row, torch.tensor([0, 0, 1, 2, 3, 2, 1, 0, 0]) / 3)
    assert torch.equal(weights_of(mask, 0)[0, 0], mask[0].float())


@pytest.mark.parametrize("kind", ["PIL", "u8", "np", "pt", "batch of one"])
def test_pictures_are_taken_as_they_are_given(pipe, photo, kind):
    floats = photo.astype(np.float32) / 255
    forms = {
        "PIL": Image.fromarray(photo),
        "u8": photo,
        "np": floats,
        "pt": torch.from_numpy(floats).permute(2, 0, 1),
        "batch of one": floats[None],
    }
    mask = np.zeros((32, 48), dtype=bool)
    mask[:8] = True
    masks = {"PIL": Image.fromarray(mask), "pt": torch.from_numpy(mask)[None, None].float()}
    got = draw(pipe, image=forms[kind], mask_image=masks.get(kind, mask), prompt="a")
    assert np.abs(got - draw(pipe, image=photo, mask_image=mask, prompt="a")).max() == 0
    assert got.shape == (1, 32, 48, 3)  # the picture's size, where there is no map


def test_a_picture_of_no_whole_cells_keeps_its_size_and_its_pixels(pipe, make_map, photo):
    whole = make_map()
    panoptic = PanopticMap(segment_id=whole.segment_id[:30, :45], class_id=whole.class_id[:30, :45])
    got = draw(pipe, panoptic=panoptic, image=photo[:30, :45], only_instances=[7], border=2, output_type="pil")[0]
    assert got.size == (45, 30)
    far = weights_of(torch.from_numpy(panoptic.segment_id == 7)[None], 2)[0, 0].numpy() == 0
    assert np.array_equal(np.asarray(got)[far], photo[:30, :45][far])


def test_offloaded_networks_change_pictures_alike(pipe, make_map, photo):
    asked = {"panoptic": make_map(), "image": photo, "only_instances": 7}
    wanted = draw(pipe, **asked)
    pipe.vae.enable_slicing()
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.abs(draw(pipe, **asked) - wanted).max() < 1e-5
    pipe.remove_all_hooks()
    pipe.vae.disable_slicing()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"image": None, "strength": 0.5}, "strength: which picture is to be changed"),
        ({"image": None, "only_instances": [7]}, "only_instances: which picture is to be changed"),
        ({"strength": 0.0}, r"strength must lie in \(0, 1\], got 0.0"),
        ({"strength": 0.1}, "strength 0.1 of 5 steps is less than one step"),
        ({"only_instances": [9]}, r"segments \[9\], but the map has \[1, 2, 7, 300\]"),
        ({"only_instances": []}, "only_instances are segment ids"),
        ({"only_instances": [[7], [7]]}, "only_instances are segment ids"),
        ({"only_instances": [7], "mask_image": np.ones((32, 48), bool)}, "give one of them"),
        ({"mask_image": np.ones((8, 8), bool)}, r"mask_image must have the pictures' size \(32, 48\)"),
        ({"mask_image": np.ones((32, 48, 3), np.uint8)}, "mask_image"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, r"image must have the pictures' size \(32, 48\) .*got \(8, 8\)"),
        ({"image": np.full((32, 48, 3), 2.0)}, r"numbers of pictures lie in \[0, 1\], got 2 to 2"),
        ({"image": "a.png"}, "wanted a PIL picture"),
        ({"image": [np.zeros((32, 48, 3), np.uint8)] * 2}, "image: there are 2 for 1 pictures"),
        ({"border": -1, "only_instances": [7]}, "border must be 0 or more"),
    ],
    ids=str,
)
def test_edits_nobody_can_mean(pipe, make_map, photo, asked, says):
    with pytest.raises(MamoeError, match=says):
        draw(pipe, **{"panoptic": make_map(), "image": photo, **asked})
