from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, StableDiffusionPipeline

from mamoe.errors import ConfigError, MamoeError
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.vocabulary.panoptic import PanopticMap
from masks import who_may

STEPS = 3
SAME = 1e-5  # of the range of a channel; float32 sums differ in order with the batch size
CAR = {7: "a red car"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe, **arguments) -> np.ndarray:
    return pipe(**{"num_inference_steps": STEPS, "output_type": "np", **arguments}).images


@pytest.fixture
def recorded(pipe):
    """Every call of the UNet's own forward pass: latents, text and levels."""
    calls = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True
    )
    yield calls
    handle.remove()


def test_picture_does_not_depend_on_its_batch(pipe, make_map):
    maps = [make_map(seed) for seed in range(3)]
    prompts = ["a street", "", "a long road with many words"]
    instances = [{7: "red car"}, {}, {300: "a person in a green coat", 7: "blue"}]
    together = draw(
        pipe, prompt=prompts, panoptic=maps, instance_prompts=instances, generator=seeded(5, 6, 7), guidance_scale=6.0
    )
    for i in range(3):
        alone = draw(
            pipe,
            prompt=prompts[i],
            panoptic=maps[i],
            instance_prompts=instances[i],
            generator=seeded(5 + i)[0],
            guidance_scale=6.0,
        )
        assert np.abs(alone[0] - together[i]).max() < SAME
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_a_stock_unet_gets_nothing_it_does_not_know(make_pipe, settings, make_map, caplog):
    unsteered = replace(settings, region_attention=False, moe=False)
    pipe = LayoutPipeline(**{**make_pipe(layout=False).components, "layout": unsteered.to_dict()})
    pipe.set_progress_bar_config(disable=True)
    by_map = draw(pipe, prompt="a street", panoptic=make_map(), generator=seeded(5))
    assert not caplog.records  # diffusers warns of every argument that a stock layer ignores
    assert np.array_equal(by_map, draw(pipe, prompt="a street", height=32, width=48, generator=seeded(5)))


def test_stochastic_sampler_draws_from_each_pictures_generator(make_pipe, make_map):
    pipe = make_pipe(zero_snr=False)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    maps = [make_map(0), make_map(1)]
    together = draw(pipe, panoptic=maps, generator=seeded(1, 2))
    assert np.abs(draw(pipe, panoptic=maps[1], generator=seeded(2))[0] - together[1]).max() < SAME


def test_seed_decides(pipe, make_map):
    first, again, other = (draw(pipe, panoptic=make_map(), generator=seeded(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_one_generator_seeds_one_per_picture(pipe, make_map):
    maps = [make_map(0)] * 3
    three = draw(pipe, panoptic=maps, generator=torch.Generator().manual_seed(0))
    two = draw(pipe, panoptic=maps[:2], generator=torch.Generator().manual_seed(0))
    assert np.abs(three[:2] - two).max() < SAME
    assert np.abs(three[0] - three[1]).max() > 0.01


def test_unconditional_half_has_no_layout(pipe, make_map, recorded):
    draw(pipe, prompt="a street", panoptic=make_map(), instance_prompts=CAR, generator=seeded(0), guidance_scale=4.0)
    assert len(recorded) == STEPS
    empty = pipe.text_encoder(torch.tensor([pipe.tokenizer("", padding="max_length").input_ids])).last_hidden_state[0]
    for latents, inputs in recorded:
        assert torch.equal(latents[0], latents[1])
        for level in inputs["cross_attention_kwargs"]["regions"]:
            cells = level.grid[0] * level.grid[1]
            expert = torch.empty(2 * cells, dtype=torch.long)
            slices = torch.searchsorted(level.routing.offsets, torch.arange(2 * cells), right=True)
            expert[level.routing.token] = slices
            assert (expert[:cells] == 0).all() and (expert[cells:] != 0).any()
            # Every cell of the null half attends all tokens of the empty prompt and nothing else.
            attend = who_may(level.attend)
            assert attend[0, :, :24].all() and not attend[0, :, 24:].any()
            assert not attend[1].all(0).all()
        assert torch.allclose(inputs["encoder_hidden_states"][0, :24], empty, atol=1e-6)


@pytest.mark.parametrize(("scale", "batch"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_one_pass_without_guidance(pipe, make_map, recorded, scale, batch):
    draw(pipe, panoptic=make_map(), guidance_scale=scale, generator=seeded(0))
    assert {len(latents) for latents, _ in recorded} == {batch}


def test_scale_zero_ignores_prompts_and_layout(pipe, make_map):
    first, other = make_map(0), make_map(1)
    one = draw(pipe, prompt="a", panoptic=first, instance_prompts=CAR, guidance_scale=0.0, generator=seeded(0))
    two = draw(pipe, prompt="b", panoptic=other, guidance_scale=0.0, generator=seeded(0))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("changed", ["prompt", "panoptic", "instance_prompts"])
def test_every_input_matters(pipe, make_map, changed):
    asked = {"prompt": "a", "panoptic": make_map(0), "instance_prompts": CAR, "guidance_scale": 1.0}
    other = {"prompt": "zzz", "panoptic": make_map(1), "instance_prompts": {7: "a blue car"}}
    one = draw(pipe, **asked, generator=seeded(0))
    two = draw(pipe, **{**asked, changed: other[changed]}, generator=seeded(0))
    assert np.abs(one - two).max() > 1e-4


def test_base_model_draws_what_stable_diffusion_draws(make_pipe, parts):
    ours = make_pipe(layout=False, zero_snr=False)
    stock = StableDiffusionPipeline(
        **parts, scheduler=ours.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    stock.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "height": 32, "width": 48, "output_type": "np"}
    wanted = stock("a street", generator=torch.Generator().manual_seed(0), **asked).images
    got = ours("a street", generator=torch.Generator().manual_seed(0), **asked).images
    assert np.abs(wanted - got).max() < 1e-5


def test_without_a_map_the_layout_model_is_its_dense_self(make_pipe, layout_unet):
    dense = make_pipe(layout=False, unet=layout_unet.to_dense())
    one = draw(make_pipe(), prompt="a street", generator=seeded(0))
    assert one.shape == (1, 32, 32, 3)
    assert np.abs(one - draw(dense, prompt="a street", generator=seeded(0))).max() < 1e-5


def test_rescale_is_on_for_zero_snr_only(make_pipe, make_map):
    for zero_snr, default in ((True, 0.7), (False, 0.0)):
        pipe = make_pipe(zero_snr=zero_snr)
        implied = draw(pipe, panoptic=make_map(), guidance_scale=6.0, generator=seeded(0))
        for rescale in (0.0, 0.7):
            given = draw(pipe, panoptic=make_map(), guidance_scale=6.0, guidance_rescale=rescale, generator=seeded(0))
            assert np.array_equal(given, implied) == (rescale == default)


@pytest.mark.parametrize("layout", [True, False])
def test_saved_and_read_again(make_pipe, make_map, tmp_path, layout):
    pipe = make_pipe(layout=layout)
    pipe.save_pretrained(tmp_path)
    again = LayoutPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    asked = {"panoptic": make_map(), "instance_prompts": CAR} if layout else {}
    first, second = (draw(one, prompt="a", **asked, generator=seeded(0)) for one in (pipe, again))
    assert np.abs(first - second).max() < SAME
    assert again.config["layout"] == pipe.config["layout"]
    assert isinstance(again.unet, MaMoEUNet2DConditionModel) == layout
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]


def test_a_branch_that_was_left_behind_is_missed(make_pipe, tmp_path):
    """A hub or a copy by model_index.json brings no branch; the base alone would draw, and follow no condition."""
    pipe = make_pipe()
    pipe.register_to_config(condition="classes")
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"saved with a ControlNet-XS branch, and .*controlnet_xs is not there"):
        LayoutPipeline.from_pretrained(tmp_path)


def test_experts_keep_their_numbers(pipe, settings, tmp_path):
    """Sorted keys would renumber them: the order of a grouping's groups is their number."""
    assert sorted(settings.experts.names) != list(settings.experts.names)
    pipe.save_pretrained(tmp_path)
    for one in (pipe, LayoutPipeline.from_pretrained(tmp_path)):
        assert one.settings.experts.names == settings.experts.names


def test_scheduler_of_ones_own_survives_saving(make_pipe, tmp_path):
    pipe = make_pipe(zero_snr=False)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    assert isinstance(LayoutPipeline.from_pretrained(tmp_path).scheduler, EulerAncestralDiscreteScheduler)


def test_stock_folder_is_sampled_with_ddim(parts, tmp_path):
    stock = StableDiffusionPipeline(
        **parts,
        scheduler=DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.save_pretrained(tmp_path)
    scheduler = LayoutPipeline.from_pretrained(tmp_path).scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config["timestep_spacing"] == "trailing" and not scheduler.config["clip_sample"]


def test_output_kinds_agree(pipe, make_map):
    def one(kind):
        return draw(pipe, panoptic=make_map(), generator=seeded(0), output_type=kind)

    array = one("np")
    assert array.min() >= 0 and array.max() <= 1
    assert np.array_equal(one("pt")[0].permute(1, 2, 0).numpy(), array[0])
    assert np.array_equal(np.asarray(one("pil")[0]), (array[0] * 255).round().astype(np.uint8))
    assert one("latent").shape == (1, 4, 4, 6)
    assert isinstance(pipe(panoptic=make_map(), num_inference_steps=1, return_dict=False), tuple)


def unknown_class_map() -> PanopticMap:
    zeros = np.zeros((32, 48))
    return PanopticMap(segment_id=zeros.astype(np.int32), class_id=(zeros + 77).astype(np.uint8))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            lambda m: {"panoptic": m(), "instance_prompts": {9: "x"}},
            r"segments \[9\], but the map has \[1, 2, 7, 300\]",
        ),
        (lambda m: {"instance_prompts": {9: "x"}}, "need a panoptic map"),
        (lambda m: {"panoptic": [m(), m(width=64)]}, "one call per size"),
        (lambda m: {"panoptic": [m(), m()], "prompt": ["a"]}, "one length"),
        (lambda m: {"prompt": []}, "hold something"),
        (lambda m: {"panoptic": unknown_class_map()}, "class id 77"),
        (lambda m: {"panoptic": m(), "height": 64}, r"The map has size \(32, 48\)"),
        (lambda m: {"panoptic": np.zeros((32, 48))}, "PanopticMap.read"),
        (lambda m: {"prompt": 3}, "a prompt is text"),
        (lambda m: {"guidance_scale": -1.0}, "guidance_scale"),
        (lambda m: {"guidance_rescale": 2.0}, "guidance_rescale"),
        (lambda m: {"num_inference_steps": 0}, r"num_inference_steps must lie in 1\.\.1000, got 0"),
        (lambda m: {"num_inference_steps": 1001}, "num_inference_steps"),
        (lambda m: {"output_type": "jpg"}, "pil, np, pt, latent"),
        (lambda m: {"prompt": ["a", "b"], "generator": seeded(1)}, r"one generator per picture \(2\), got 1"),
    ],
)
def test_bad_calls_are_explained(pipe, make_map, asked, says):
    with pytest.raises(MamoeError, match=says):
        draw(pipe, **asked(make_map))


def test_model_without_layout_refuses_a_map(make_pipe, make_map):
    with pytest.raises(ValueError, match="knows no layout"):
        draw(make_pipe(layout=False), panoptic=make_map())


def test_settings_must_fit_the_unet(make_pipe, parts):
    with pytest.raises(ConfigError, match=r"5 experts, the UNet 1.*asks? for region attention"):
        make_pipe(unet=parts["unet"])


@pytest.mark.parametrize("name", ["there/is/none", "./none", "none"])
def test_missing_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="There is no folder"):
        LayoutPipeline.from_pretrained(name)
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        LayoutPipeline.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="ships with the package"):
        LayoutPipeline.from_pretrained("package:none")
