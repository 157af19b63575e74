"""What users of diffusers do to a pipeline: offload it, slice it, compile it; and prompts that nobody reads."""

import copy
import logging
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image

from factories import mamoe
from mamoe.errors import ConfigError, MamoeError
from mamoe.models.blocks.strength import RegionStrength
from mamoe.models.control.call import Control, control_of
from mamoe.models.control.controlnet_xs import ControlledUNet, new_branch
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.padding import Padded
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import model_hash
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

SAME = 1e-5
ROAD, CAR = 0, 13


def street(size=(32, 48)) -> PanopticMap:
    segment = np.ones(size, dtype=np.int32)
    segment[8:24, 8:40] = 7
    return PanopticMap(segment_id=segment, class_id=np.where(segment == 7, CAR, ROAD).astype(np.uint8))


@pytest.fixture(scope="module")
def settings() -> LayoutSettings:
    return LayoutSettings(taxonomy=Taxonomy.load("cityscapes"))


@pytest.fixture(scope="module")
def bases(base_model, xl_base) -> dict[bool, dict]:
    return {xl: LayoutPipeline.from_pretrained(base).components for xl, base in ((False, base_model), (True, xl_base))}


@pytest.fixture(scope="module")
def make(bases, settings):
    """A pipeline of the tiny base with regions and experts; ``control`` adds a branch whose ways are open."""

    def build(*, xl=False, control=False, layout=settings) -> LayoutPipeline:
        parts = copy.deepcopy(bases[xl])
        unet = parts["unet"]
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            if layout.region_attention or layout.moe:
                unet = MaMoEUNet2DConditionModel.from_unet(
                    unet,
                    num_experts=layout.num_experts,
                    region_attention=layout.region_attention,
                    learned_strength=layout.strength == "learned",
                )
            for name, weight in unet.named_parameters():
                weight += 0.3 * torch.randn_like(weight) * (".experts." in name)
                weight *= 3 if ".attn2." in name else 1
            if control:
                unet = ControlledUNet(unet, new_branch(unet))
                for weight in unet.branch.parameters():
                    weight += 0.1 * torch.randn_like(weight)
        parts |= {"unet": unet.eval(), "layout": layout.to_dict()}
        made = LayoutPipeline(**parts, condition="classes" if control else None)
        made.set_progress_bar_config(disable=True)
        return made

    return build


def draw(pipe, **asked) -> np.ndarray:
    given = {"panoptic": street(), "instance_prompts": {7: "a red car"}, "prompt": "a street"} | asked
    generator = torch.Generator().manual_seed(0)
    return pipe(**given, generator=generator, num_inference_steps=1, guidance_scale=2.0, output_type="np").images


KINDS = {"layout": {}, "two encoders": {"xl": True}, "branch": {"control": True}}
of_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def plain(make):
    """What each kind of pipeline draws when nobody has done anything to it."""
    return {name: draw(make(**kind)) for name, kind in KINDS.items()}


@of_kind
def test_sequential_offloading_draws_the_same(make, plain, kind):
    """What `enable_sequential_cpu_offload` does; all weights wait on the meta device."""
    pipe = make(**KINDS[kind])
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, "cpu", offload_buffers=len(part._parameters) > 0)
    assert pipe.text_encoder.device.type == "meta"
    assert np.abs(draw(pipe) - plain[kind]).max() < SAME


def test_offloaded_experts_are_fetched_by_their_layers(make, plain, monkeypatch):
    """The grouped product reads weights directly: not those that a hook would have to fetch."""
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    pipe = make()
    cpu_offload(pipe.unet, "cpu")
    assert np.abs(draw(pipe) - plain["layout"]).max() < SAME


def test_an_offloaded_autoencoder_decodes_without_overflow(make):
    pipe = make().to(torch.float16)
    wanted = draw(pipe)
    cpu_offload(pipe.vae, "cpu")
    assert np.array_equal(draw(pipe), wanted)


def test_model_offloading(make, plain):
    pipe = make()
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.abs(draw(pipe) - plain["layout"]).max() < SAME


def sliced(pipe):
    pipe.enable_attention_slicing(1)


def explicit(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())


def by_torch(pipe):
    pipe.unet.set_attn_processor(AttnProcessor2_0())


def fused(pipe):
    pipe.fuse_qkv_projections()


STOCK = (sliced, explicit, by_torch, fused)


@pytest.mark.parametrize("changes", [{}, {"strength": "soft"}, {"region_attention": False}], ids=str)
def test_stock_attention_in_place_of_ours_gives_the_same(make, settings, changes):
    pipe = make(layout=replace(settings, **changes))
    asked = {"instance_prompts": None} if "region_attention" in changes else {}
    wanted = draw(pipe, **asked)
    for change in STOCK:
        change(pipe)
        assert np.abs(draw(pipe, **asked) - wanted).max() < SAME, change


def test_stock_attention_beside_a_branch(make, plain):
    for change in STOCK:
        pipe = make(control=True)
        change(pipe)
        assert len({type(p) for p in pipe.unet.base.attn_processors.values()}) == 1
        assert np.abs(draw(pipe) - plain["branch"]).max() < SAME, change


def test_a_learned_strength_is_not_dropped(make, settings):
    pipe = make(layout=replace(settings, strength="learned"))
    with torch.no_grad():
        for module in pipe.unet.modules():
            if isinstance(module, RegionStrength):
                module.weight += 1.0
    wanted = draw(pipe)
    for change, back in [(sliced, pipe.disable_attention_slicing), (explicit, pipe.unet.set_default_attn_processor)]:
        change(pipe)
        with pytest.raises(ConfigError, match=r"AttnProcessor would drop that.*set_default_attn_processor\(\)"):
            draw(pipe)
        back()
        assert np.array_equal(draw(pipe), wanted)


def test_default_attention_is_ours(make):
    pipe = make()
    before = {name: type(p) for name, p in pipe.unet.attn_processors.items()}
    explicit(pipe)
    pipe.unet.set_default_attn_processor()
    assert {name: type(p) for name, p in pipe.unet.attn_processors.items()} == before


@of_kind
def test_what_else_diffusers_offers(make, plain, kind):
    pipe = make(**KINDS[kind])
    pipe.enable_vae_slicing()
    pipe.unet.to(memory_format=torch.channels_last)
    assert np.abs(draw(pipe) - plain[kind]).max() < SAME
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    pipe.disable_freeu()
    pipe.enable_vae_tiling()
    tiled = draw(pipe)
    pipe.disable_vae_tiling()
    assert tiled.shape == plain[kind].shape and np.abs(tiled - plain[kind]).max() > SAME  # two tiles that overlap
    pipe.disable_vae_slicing()
    assert np.abs(draw(pipe) - plain[kind]).max() < SAME
    pipe.to(torch.bfloat16)
    assert np.isfinite(draw(pipe)).all()


def test_chunked_experts_are_refused_by_name(make):
    block = make().unet.mid_block.attentions[0].transformer_blocks[0]
    with pytest.raises(ConfigError, match="Feed-forward chunking"):
        block.set_chunk_feed_forward(2, 1)
    block.set_chunk_feed_forward(None)


# Wrappers.

WRAPPERS = {"compiled": lambda net: torch.compile(net, backend="eager"), "parallel": torch.nn.DataParallel}


@pytest.fixture
def uncompiled():
    """Compiled modules are there, and compile nothing: that would cost seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@of_kind
def test_a_wrapped_unet_is_the_unet(make, plain, tmp_path, kind, wrap):
    pipe = make(**KINDS[kind])
    wanted, hashed = plain[kind], model_hash(pipe)
    pipe.unet = wrap(pipe.unet)
    assert control_of(pipe.unet) is (Control.PICTURE if kind == "branch" else None)
    assert model_hash(pipe) == hashed  # a sampling job goes on with a compiled model
    assert np.abs(draw(pipe) - wanted).max() < SAME
    if kind == "two encoders":
        return  # saving is the same
    pipe.save_pretrained(tmp_path)
    again = LayoutPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert np.abs(draw(again) - wanted).max() < SAME


@pytest.mark.usefixtures("uncompiled")
def test_compiled_parts_of_a_pipeline(make, plain, bases):
    """The constructor takes them too; and a compiled layer of experts still sends cells to their experts."""
    pipe = make()
    compiled = {name: WRAPPERS["compiled"](pipe.components[name]) for name in ("unet", "vae", "text_encoder")}
    assert LayoutPipeline(**{**pipe.components, **compiled}, layout=pipe.config["layout"]).settings is not None
    for module in list(pipe.unet.modules()):
        if hasattr(module, "has_experts"):
            module.ff = WRAPPERS["compiled"](module.ff)
    assert np.abs(draw(pipe) - plain["layout"]).max() < SAME
    stock = WRAPPERS["compiled"](bases[False]["unet"])
    assert MaMoEUNet2DConditionModel.from_unet(stock, num_experts=2).config["num_experts"] == 2


# What has no effect.


def said(pipe, **asked) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe(**asked, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    return [str(one.message) for one in caught if one.category is WithoutEffect]


def test_a_prompt_nobody_reads_is_said(make, settings):
    pipe = make(layout=replace(settings, global_prompt=False, global_padding=False))
    for asked in ({"panoptic": street()}, {"height": 32, "width": 48}):  # one rule, with a map and without
        assert "layout.global_prompt=false" in said(pipe, prompt="a street", **asked)[0]
        assert said(pipe, **asked) == []
    free = [draw(pipe, prompt=p, panoptic=None, instance_prompts=None, height=32, width=48) for p in ("a street", None)]
    assert np.array_equal(*free)


def test_without_a_map_the_data_sets_prompt_is_read(make, settings):
    asked = {"prompt": None, "panoptic": None, "instance_prompts": None, "height": 32, "width": 48}
    one, other = (draw(make(layout=replace(settings, dataset_prompt=p)), **asked) for p in ("a red car", None))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"region_attention": False}, ["Instance prompts have no effect"]),
        ({"region_attention": False, "moe": False}, ["Panoptic maps", "Instance prompts"]),
        ({"policy": RegionPolicy.BACKGROUND}, ["1 of 1 instance prompts"]),
        ({"policy": RegionPolicy.THINGS}, []),
        ({}, []),
    ],
    ids=str,
)
def test_instance_prompts_nobody_reads_are_said(make, settings, changes, says):
    got = said(make(layout=replace(settings, **changes)), panoptic=street(), instance_prompts={7: "a red car"})
    assert len(got) == len(says) and all(line.startswith(start) for line, start in zip(got, says, strict=True))


def test_a_sampling_job_says_it_once_and_drawing_samples_does_not(make, settings, tmp_path, monkeypatch):
    pipe = make(layout=replace(settings, global_prompt=False))
    (tmp_path / "maps").mkdir()
    for name in ("a", "b"):
        street().write(tmp_path / "maps" / f"{name}.png")
    (tmp_path / "prompts.csv").write_text("img_name,prompt\na.png,a street\nb.png,a road\n")
    monkeypatch.setattr(LayoutPipeline, "from_pretrained", lambda *_, **__: pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WithoutEffect)
        outcome = mamoe(
            "sample", tmp_path, "--panoptic", tmp_path / "maps", "--out", tmp_path / "out", "--steps", "1",
            "--prompts", tmp_path / "prompts.csv", "--batch-size", "1", "--device", "cpu",
        )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("Warning: The prompt of the whole picture has no effect") == 1


# Sizes and messages.


def test_a_branch_wants_larger_sizes_and_gives_the_one_asked_for(make):
    pipe = make(control=True)
    assert pipe.side_multiple == 16
    with pytest.warns(Padded, match=r"\(24, 48\) are not divisible by 16: drawn at \(32, 48\)"):
        assert draw(pipe, panoptic=street((24, 48))).shape == (1, 24, 48, 3)
    shown = np.full((24, 48, 3), 50, np.uint8)
    with pytest.raises(MamoeError, match=r"must be uint8 \(24, 48, 3\)"):
        draw(pipe, panoptic=street((24, 48)), condition=np.zeros((16, 16, 3), np.uint8))
    with pytest.warns(Padded):
        given = draw(pipe, panoptic=street((24, 48)), condition=shown)
        assert np.abs(given - draw(pipe, panoptic=street((24, 48)))).max() > 1e-5


def test_half_precision_is_not_talked_about_per_picture(make):
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        pipe = make(control=True)
        for part in ("unet", "vae", "text_encoder"):
            torch.nn.Module.to(getattr(pipe, part), torch.float16)
        draw(pipe)
        new_branch(pipe.unet.base)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert not told


def test_pictures_are_compared_at_any_size(tmp_path):
    """299x299 is what the Inception network reads; only an autoencoder needs multiples of 8, and has no floor here."""
    for folder, colour in (("drawn", 90), ("real", 120)):
        (tmp_path / folder).mkdir()
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, colour, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / folder / f"{i}.png")
    words = ["evaluate", tmp_path / "drawn", "--against", tmp_path / "real", "--out", tmp_path / "out"]
    words += ["--scores", "kid", "--extractor", "pixels", "--device", "cpu", "--size", "29", "37"]
    outcome = mamoe(*words)
    assert outcome.code == 0, outcome.err
    refused = mamoe(*words, "--data", tmp_path)
    assert refused.code == 2 and "Give --size 32 40" in refused.err
