"""What a call may ask for besides prompts and a map: negatives, several pictures, noise, schedules, callbacks."""

import copy
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from mamoe.errors import MamoeError
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.padding import Padded
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.vocabulary.layout import RegionPolicy
from mamoe.vocabulary.panoptic import PanopticMap
from masks import who_may

STEPS = 4
SAME = 1e-5
CAR = {7: "a red car"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe, **arguments) -> np.ndarray:
    given = {"num_inference_steps": STEPS, "output_type": "np", "generator": seeded(0), **arguments}
    return pipe(**given).images


def far(one, other) -> float:
    return float(np.abs(one - other).max())


@pytest.fixture
def street(make_map) -> dict:
    return {"prompt": "a street", "panoptic": make_map(), "instance_prompts": CAR}


# Negative prompts.


def test_a_negative_prompt_is_stable_diffusions(make_pipe, parts):
    ours = make_pipe(layout=False, zero_snr=False)
    stock = StableDiffusionPipeline(
        **parts, scheduler=ours.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    stock.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "height": 32, "width": 48, "output_type": "np"}
    asked |= {"negative_prompt": ["blurred", "blurred"], "num_images_per_prompt": 2}
    noise = torch.randn(4, 4, 4, 6, generator=seeded(5)[0])
    wanted = stock(["a street", "a road"], latents=noise, **asked).images
    assert far(wanted, ours(["a street", "a road"], latents=noise, **asked).images) < SAME
    asked |= {"negative_prompt": ["", ""]}
    assert far(wanted, ours(["a street", "a road"], latents=noise, **asked).images) > 1e-4


def test_the_negative_prompt_of_a_region_is_read_by_its_cells_alone(pipe, street):
    """The unconditional half: one region where the car is, everywhere else what it always was."""
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, a, kwargs: calls.append(kwargs), with_kwargs=True)
    draw(pipe, **street, negative_instance_prompts={7: "rust"}, num_inference_steps=1)
    handle.remove()
    finest = calls[0]["cross_attention_kwargs"]["regions"][0]
    car = (street["panoptic"].segment_id == 7).reshape(4, 8, 6, 8).mean(axis=(1, 3)).ravel() > 0.5
    attend = who_may(finest.attend)
    words = attend[0, :, 24:28]
    assert car.any() and torch.equal(words, torch.from_numpy(car)[:, None].expand_as(words))
    assert attend[0, :, :24].all() and not attend[0, :, 28:].any()
    experts = torch.searchsorted(finest.routing.offsets, torch.arange(len(finest.routing.token)), right=True)
    assert (experts[finest.routing.token < finest.grid[0] * finest.grid[1]] == 0).all()


def test_negatives_matter_and_empty_ones_do_not(pipe, street):
    plain = draw(pipe, **street)
    assert np.array_equal(plain, draw(pipe, **street, negative_prompt="", negative_instance_prompts={}))
    whole, own = draw(pipe, **street, negative_prompt="fog"), draw(pipe, **street, negative_instance_prompts={7: "fog"})
    assert far(plain, whole) > 1e-4 and far(plain, own) > 1e-4 and far(whole, own) > 1e-4


def said(pipe, category, **asked) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw(pipe, **asked, num_inference_steps=1)
    return [str(one.message) for one in caught if one.category is category]


def test_negatives_nobody_reads_are_said(make_pipe, settings, street):
    asked = {**street, "negative_prompt": "fog", "negative_instance_prompts": {7: "rust"}}
    assert said(make_pipe(), WithoutEffect, **asked) == []
    assert "without guidance" in said(make_pipe(), WithoutEffect, **asked, guidance_scale=1.0)[0]
    # To a guidance on the layout alone they are what is led away from.
    assert said(make_pipe(), WithoutEffect, **asked, guidance_scale=1.0, guidance_layout=2.0) == []
    changed = replace(settings, policy=RegionPolicy.BACKGROUND, global_prompt=False)
    pipe = LayoutPipeline(**{**make_pipe().components, "layout": changed.to_dict()})
    lines = said(pipe, WithoutEffect, **asked)
    assert [line.startswith("Negative prompts: ") for line in lines] == [False, False, True, True]


# Several pictures, noise, and requests that are encoded once.


def test_pictures_per_prompt_stand_one_prompt_after_another(pipe, make_map):
    maps, seeds = [make_map(0), make_map(1)], (1, 2, 3, 4)
    four = draw(pipe, prompt=["a", "b"], panoptic=maps, num_images_per_prompt=2, generator=seeded(*seeds))
    for place, seed in enumerate(seeds):
        alone = draw(pipe, prompt="ab"[place // 2], panoptic=maps[place // 2], generator=seeded(seed))
        assert far(four[place], alone[0]) < SAME


def test_latents_are_the_noise(pipe, street):
    noise = torch.randn(4, 4, 6, generator=seeded(3)[0])[None]
    assert np.array_equal(draw(pipe, **street, latents=noise), draw(pipe, **street, generator=seeded(3)))


@pytest.mark.parametrize(
    "further", [{}, {"negative_prompt": "fog", "regions_until": 0.5}, {"num_images_per_prompt": 2}]
)
def test_an_encoded_request_is_drawn_without_the_text_encoder(pipe, street, further):
    asked = {"latents": noise_for(further), "generator": None}
    led = [{"guidance_scale": 0.0}, {"guidance_scale": 1.0}, {"guidance_scale": 4.0}, {"guidance_layout": 2.0}]
    wanted = [draw(pipe, **street, **further, **asked, **guidance) for guidance in led]
    encoded = pipe.encode(**street, **further)
    handle = pipe.text_encoder.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    for guidance, pictures in zip(led, wanted, strict=True):
        assert np.array_equal(draw(pipe, encoded=encoded, **asked, **guidance), pictures)
    handle.remove()


def noise_for(further) -> torch.Tensor:
    return torch.randn(further.get("num_images_per_prompt", 1), 4, 4, 6, generator=seeded(8)[0])


# Guidance on the layout apart from the text.


def test_guidance_on_the_layout(pipe, street):
    """Led as far as the text it is the guidance of both; led nowhere the layout is not seen."""
    together = draw(pipe, **street, guidance_scale=3.0)
    assert far(together, draw(pipe, **street, guidance_scale=3.0, guidance_layout=3.0)) < 1e-4
    text = draw(pipe, prompt="a street", height=32, width=48, guidance_scale=3.0, guidance_rescale=0.0)
    none = draw(pipe, **street, guidance_scale=3.0, guidance_layout=0.0, guidance_rescale=0.0)
    assert far(text, none) < 1e-4
    assert far(together, draw(pipe, **street, guidance_scale=3.0, guidance_layout=6.0)) > 1e-3


# When prompts of regions bind.


def test_regions_bind_when_told(pipe, street):
    always = draw(pipe, **street)
    assert np.array_equal(always, draw(pipe, **street, regions_from=0.0, regions_until=1.0))
    assert np.array_equal(draw(pipe, **street, regions_from={7: 0.5}), draw(pipe, **street, regions_from={7: 0.45}))
    late, early = draw(pipe, **street, regions_from=0.5), draw(pipe, **street, regions_until=0.5)
    never = draw(pipe, **street, regions_until=0.0)
    pictures = [always, late, early, never, draw(pipe, **street, regions_from={7: 0.5})]
    assert all(far(a, b) > 1e-5 for i, a in enumerate(pictures) for b in pictures[:i])


def test_what_is_kept_of_a_text_is_let_go_when_others_bind(pipe, street):
    keys, alive = [], []

    def look(module, args, kwargs):
        kept = kwargs["cross_attention_kwargs"]["kept"]
        alive.append(sum(key() is not None for key in keys))
        keys.extend(weakref.ref(key) for _, key, _ in kept.values())

    handle = pipe.unet.down_blocks[0].attentions[0].register_forward_pre_hook(look, with_kwargs=True)
    draw(pipe, **street, regions_from=0.5)
    handle.remove()
    assert len(keys) == 14 and not any(alive)  # made once for each half


def test_each_step_sees_the_regions_of_its_share(pipe, street):
    seen = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda m, a, kwargs: seen.append(who_may(kwargs["cross_attention_kwargs"]["regions"][0].attend)),
        with_kwargs=True,
    )
    draw(pipe, **street, guidance_scale=1.0, regions_from={7: 0.5}, regions_until={300: 0.5})
    handle.remove()
    widths = [int(mask.any(dim=1).sum()) for mask in seen]
    assert len(seen) == STEPS and torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    # Each of the two is attended in its half, a token a letter; what is always there in both.
    assert widths[2] - widths[0] == len("aredcar") - len(pipe.settings.taxonomy.prompt_of(11))


# Callbacks.


def test_callbacks_see_and_change_every_step(pipe, street):
    plain, seen = draw(pipe, **street), []

    def look(own, step, timestep, tensors):
        assert own is pipe and set(tensors) == {"latents", "prompt_embeds"} and own.num_timesteps == STEPS
        assert tensors["latents"].shape == (1, 4, 4, 6) and own.guidance_scale == 4.0
        seen.append((step, int(timestep)))
        return {}

    tensors = ["latents", "prompt_embeds"]
    watched = draw(pipe, **street, callback_on_step_end=look, callback_on_step_end_tensor_inputs=tensors)
    assert np.array_equal(plain, watched) and [step for step, _ in seen] == list(range(STEPS))
    assert [time for _, time in seen] == pipe.scheduler.timesteps.tolist()

    def wipe(own, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == STEPS - 1 else tensors

    wiped = draw(pipe, **street, callback_on_step_end=wipe, output_type="latent")
    assert not wiped.any()

    def mute(own, step, timestep, tensors):
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    muted = draw(pipe, **street, callback_on_step_end=mute, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert far(muted, plain) > 1e-4
    assert np.array_equal(draw(pipe, **street), plain)  # nothing of it is left in the pipeline


def test_a_callback_ends_the_drawing(pipe, street):
    steps = []

    def stop(own, step, timestep, tensors):
        steps.append(step)
        own._interrupt = step == 1
        return tensors

    draw(pipe, **street, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert len(draw(pipe, **street)) == 1 and not pipe.interrupt


# Sizes.


def test_a_size_of_no_whole_cells_is_padded_and_cropped(pipe, make_map):
    whole = make_map()
    part = PanopticMap(segment_id=whole.segment_id[:30, :45], class_id=whole.class_id[:30, :45])
    padded = PanopticMap(
        segment_id=np.pad(part.segment_id, ((0, 2), (0, 3)), mode="edge"),
        class_id=np.pad(part.class_id, ((0, 2), (0, 3)), mode="edge"),
    )
    assert np.array_equal(draw(pipe, panoptic=part), draw(pipe, panoptic=padded)[:, :30, :45])
    (line,) = said(pipe, Padded, panoptic=part)
    assert "(30, 45) are not divisible by 8: drawn at (32, 48)" in line
    assert draw(pipe, prompt="a", height=20, width=33).shape == (1, 20, 33, 3)
    assert said(pipe, Padded, panoptic=whole) == []


def test_an_empty_map_is_text_alone_and_said(pipe, settings):
    void = settings.taxonomy.void_id
    nothing = PanopticMap(segment_id=np.zeros((32, 48), np.int32), class_id=np.full((32, 48), void, np.uint8))
    with_map = draw(pipe, prompt="a street", panoptic=nothing)
    assert np.array_equal(with_map, draw(pipe, prompt="a street", height=32, width=48))
    assert said(pipe, WithoutEffect, panoptic=nothing)[0].startswith("The map is void all over")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"negative_instance_prompts": {9: "x"}}, r"segments \[9\], but the map has \[1, 2, 7, 300\]"),
        ({"negative_prompt": ["a", "b"], "prompt": ["a"]}, "one length"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"num_images_per_prompt": 2}, r"one generator per picture \(2\), got 1"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"shape \(1, 4, 4, 6\)"),
        ({"guidance_layout": -1.0}, "guidance_layout must be 0 or more"),
        ({"regions_from": 1.5}, r"regions_from are shares of the denoising in \[0, 1\]"),
        ({"regions_from": 0.7, "regions_until": 0.2}, r"regions_from lies behind regions_until"),
        ({"regions_until": {8: 0.5}}, r"regions_until speaks of segments \[8\]"),
        ({"panoptic": None, "instance_prompts": None, "regions_until": 0.5}, "need a panoptic map"),
        ({"height": 0, "panoptic": None, "instance_prompts": None}, "at least 1, got"),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["noise"]},
            "may name latents and prompt_embeds; there is no noise",
        ),
        (
            {"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}},
            r"gave back latents of shape \(1,\), wanted \(1, 4, 4, 6\)",
        ),
    ],
)
def test_calls_nobody_can_mean(pipe, street, asked, says):
    with pytest.raises(MamoeError, match=says):
        draw(pipe, **{**street, **asked})


def test_an_encoded_request_says_all_it_was_made_of(make_pipe, street):
    pipe = make_pipe()
    encoded = pipe.encode(**street)
    with pytest.raises(MamoeError, match="leave out prompt, width"):
        draw(pipe, encoded=encoded, prompt="a", width=48)
    picture = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(MamoeError, match="leave out condition, regions_from, num_images_per_prompt"):
        draw(pipe, encoded=encoded, condition=picture, regions_from={7: 0.5}, num_images_per_prompt=2)
    (elsewhere,) = encoded.problems({}, torch.device("cuda"), torch.float32)
    assert "encoded on cpu and the model draws on cuda: encode it again" in elsewhere
    with pytest.raises(MamoeError, match="leave out guidance_layout"):
        draw(make_pipe(layout=False), prompt="a", guidance_layout=1.0)
    other = make_pipe(unet=copy.deepcopy(pipe.unet).to(torch.bfloat16))
    with pytest.raises(MamoeError, match="encode it again"):
        draw(other, encoded=encoded)
