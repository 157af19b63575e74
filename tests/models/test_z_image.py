"""Z-Image's transformer: the stock one where it must be, steered where it may be, every prompt as if it were alone."""

import dataclasses

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from joint_calls import GRID, TOKENS, adapted, difference, layout, noisy, run, text
from mamoe.errors import ConfigError
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.zimage import model as zimage
from mamoe.models.zimage.model import MaMoEZImageTransformer2DModel
from mamoe.models.zimage.sequence import laid_out
from mamoe.vocabulary.conditioning import LevelConditioning
from small_models import TEXT_WIDTH

LONG = 40  # tokens of a prompt that takes two multiples of 32 positions


def mamoe(models, **changes):
    model = with_layout(models.trained(models.z_image(**changes)), num_experts=3)
    model.add_experts(rank=4, alpha=8.0, generator=torch.Generator().manual_seed(4))
    return models.trained(model)


def words(count, seed=7):
    return torch.randn((2, count, TEXT_WIDTH), generator=torch.Generator().manual_seed(seed))


def seen(attend, region, grid=GRID):
    """A layout by which every cell of both pictures sees the same."""
    attend = attend.expand(2, grid[0] * grid[1], -1).clone()
    return (LevelConditioning(grid=grid, attend=attend, routing=None, region=region.expand(2, -1).clone()),)


def off(got, wanted):
    """The largest difference, of the largest number."""
    return difference(got, wanted) / wanted.abs().max().item()


@torch.no_grad()
def test_it_is_called_as_the_stock_pipeline_calls_it(models):
    stock, latents = models.trained(models.z_image()), noisy()
    for sigma in (0.3, 1.0):
        found = stock(list(latents.unsqueeze(2)), torch.full((2,), 1 - sigma), list(text()), return_dict=False)[0]
        wanted = -torch.stack(found).squeeze(2)
        got = predict(stock, latents, 1000 * sigma, {"encoder_hidden_states": text()})
        assert difference(got, wanted) < 1e-6


@pytest.mark.parametrize("tokens", [9, 32, LONG])
@torch.no_grad()
def test_one_prompt_is_that_of_the_stock_model_whatever_its_length(models, tokens):
    stock = models.trained(models.z_image())
    given = {"encoder_hidden_states": words(tokens)}
    wanted = predict(stock, noisy(), 300, given)
    ours = with_layout(stock)
    padded = {"encoder_hidden_states": torch.nn.functional.pad(words(tokens), (0, 0, 0, 5))}
    valid = torch.arange(tokens + 5) < tokens
    told = {"cross_attention_kwargs": {"regions": seen(valid, torch.zeros(tokens + 5).long())}}
    assert difference(predict(ours, noisy(), 300, {**padded, **told}), wanted) < 1e-5
    # Without a layout, padding is cut off: for a stock network too, which would read it.
    for network in (stock, ours):
        mask = {"encoder_attention_mask": valid.repeat(2, 1)}
        assert difference(predict(network, noisy(), 300, {**padded, **mask}), wanted) < 1e-5


@pytest.mark.parametrize("own", [32, 64])  # what fills a text is none where its length is a multiple of 32
@torch.no_grad()
def test_a_prompt_of_a_region_is_read_as_if_it_were_alone(models, own):
    stock, latents = models.trained(models.z_image()), torch.randn(2, 4, 8, 16)  # 32 patches
    wanted = predict(stock, latents, 300, {"encoder_hidden_states": words(own)})
    both = torch.cat([words(3, seed=8), words(own)], dim=1)  # the first of which nobody sees
    region = torch.tensor([0] * 3 + [1] * own)
    told = {"cross_attention_kwargs": {"regions": seen(region == 1, region, grid=(4, 8))}}
    assert off(predict(with_layout(stock), latents, 300, {"encoder_hidden_states": both, **told}), wanted) < 1e-5


def test_every_prompt_ends_as_far_before_the_cells_as_alone():
    lengths = (10, 3, LONG, 64)
    region = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    (level,) = seen(torch.arange(sum(lengths) + 3) >= 0, torch.cat([region, torch.zeros(3).long()]))
    level.attend[:, :, -3:] = False
    where = laid_out(level, sum(lengths) + 3, 2, torch.device("cpu"))
    cells = where.picture[0, where.picture_filled :]
    assert cells[:, 0].unique().item() == 32 + 1  # as after the first prompt alone
    assert cells[:, 1:].tolist() == [[row, column] for row in range(GRID[0]) for column in range(GRID[1])]
    assert not where.picture[0, : where.picture_filled].any() and where.picture.shape[1] == 32
    before = (cells[0, 0] - where.text[0, :, 0]).split([*lengths, 3, where.filled])
    for length, distance in zip(lengths, before, strict=False):
        padded = -(-length // 32) * 32
        assert distance.tolist() == list(range(padded, padded - length, -1))
    fills = where.valid[0, sum(lengths) + 3 :]
    assert fills.tolist() == [True] * 22 + [False] * 10 and before[-1][:22].tolist() == list(range(22, 0, -1))
    assert not where.text[..., 1:].any() and where.valid[0, : sum(lengths)].all()


@torch.no_grad()
def test_pictures_do_not_depend_on_their_batch_mates(models):
    model, (level,) = mamoe(models), layout()
    first = dataclasses.replace(level, attend=level.attend[:1], region=level.region[:1], routing=None)
    one = {"encoder_hidden_states": text()[:1], "cross_attention_kwargs": {"regions": (first,)}}
    alone = predict(model, noisy()[:1], 300, one)
    longer = torch.nn.functional.pad(text(), (0, 0, 0, LONG))
    longer[1, TOKENS:] = words(LONG)[1]
    attend = torch.nn.functional.pad(level.attend, (0, LONG))
    attend[1, :, TOKENS:] = True
    region = torch.nn.functional.pad(level.region, (0, LONG))
    region[1, TOKENS:] = 3
    both = dataclasses.replace(level, attend=attend, region=region, routing=None)
    told = {"encoder_hidden_states": longer, "cross_attention_kwargs": {"regions": (both,)}}
    assert off(predict(model, noisy(), 300, told)[:1], alone) < 1e-5


@torch.no_grad()
def test_the_order_of_prompts_says_nothing_though_words_have_places(models):
    model, (level,) = mamoe(models), layout()
    order = torch.tensor([3, 4, 5, 6, 7, 8, 0, 1, 2])
    turned = dataclasses.replace(level, attend=level.attend[:, :, order], region=level.region[:, order])
    assert off(run(model, (turned,), encoder_hidden_states=text()[:, order]), run(model, (level,))) < 1e-5
    other = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8])  # two words of one prompt
    assert difference(run(model, (level,)), run(model, (level,), encoder_hidden_states=text()[:, other])) > 1e-4


@torch.no_grad()
def test_cells_go_to_their_experts_and_what_it_is_without_is_dense(models, tmp_path):
    model, (level,) = mamoe(models), layout(one_prompt=True)
    every = torch.zeros((2, 12), dtype=torch.long)
    rest = dataclasses.replace(level, routing=models.hard(every, 3))
    other = dataclasses.replace(level, routing=models.hard(every + 1, 3))
    assert off(run(model, (rest,)), run(model)) < 1e-5
    assert difference(run(model, (other,)), run(model)) > 1e-3
    unmasked = dataclasses.replace(other, attend=None, region=None)
    assert off(run(model, (unmasked,)), run(model, (other,))) < 1e-5
    dense = model.to_dense()
    assert type(dense) is ZImageTransformer2DModel and off(run(dense), run(model)) < 1e-5
    model.save_pretrained(tmp_path)
    again = MaMoEZImageTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(again, layout()), run(model, layout()))


@torch.no_grad()
def test_blocks_left_open_hand_words_on_and_the_refiner_of_text_does_not(models):
    stock = models.trained(models.z_image())
    dense = (dataclasses.replace(layout()[0], routing=None),)
    results = [run(with_layout(stock, region_blocks=held), dense) for held in (None, [0, 1], [0], [1])]
    assert torch.equal(results[0], results[1])
    assert min(difference(results[0], other) for other in results[2:]) > 1e-4
    open_ = with_layout(stock, region_attention=False)
    attend = torch.ones_like(layout()[0].attend)
    apart, (together,) = run(open_, dense), layout(one_prompt=True)
    assert difference(apart, run(open_, (dataclasses.replace(dense[0], attend=attend),))) < 1e-5
    assert difference(apart, run(open_, (dataclasses.replace(together, routing=None),))) > 1e-4


@torch.no_grad()
def test_what_would_be_ignored_is_refused(models, shapes_unchecked):
    stock, latents = models.z_image(), noisy()
    mask = {"cross_attention_kwargs": {"attention_mask": torch.ones(2, 1, 64, 64, dtype=torch.bool)}}
    for network in (stock, with_layout(stock)):
        with pytest.raises(ValueError, match="would ignore attention_mask"):
            predict(network, latents, 300, {"encoder_hidden_states": text(), **mask})
    with pytest.raises(ValueError, match="would ignore the layout"):
        run(stock, layout())
    model = with_layout(stock)
    dense = (dataclasses.replace(layout()[0], routing=None),)
    with pytest.raises(ValueError, match="mask of padding beside the layout"):
        run(model, dense, encoder_attention_mask=torch.ones(2, TOKENS, dtype=torch.bool))
    cells, told = list(latents.unsqueeze(2)), {"joint_attention_kwargs": {"regions": dense}}
    with pytest.raises(ValueError, match="would ignore controlnet_block_samples"):
        model(cells, torch.ones(2), list(text()), controlnet_block_samples={0: torch.ones(1)}, **told)
    with pytest.raises(ValueError, match="omni mode"):
        model([[one] for one in cells], torch.ones(2), list(text()))
    for block in (model.layers[1], model.context_refiner[0]):
        own = block.attention.processor
        block.attention.set_processor(lambda *args, **others: args[1])
        with pytest.raises(ConfigError, match="not known to obey"):
            run(model, dense)
        block.attention.set_processor(own)


@torch.no_grad()
def test_wrong_sizes_are_refused(models, monkeypatch):
    model = with_layout(models.z_image())
    with pytest.raises(ValueError, match="whole patches of 2x2 cells, got 5x8"):
        predict(model, torch.zeros(1, 4, 5, 8), 300, {"encoder_hidden_states": text()[:1]})
    with pytest.raises(ValueError, match="places for 64x64 patches"):
        predict(model, torch.zeros(1, 4, 4, 130), 300, {"encoder_hidden_states": text()[:1]})
    with pytest.raises(ValueError, match="grid"):
        run(model, (dataclasses.replace(layout()[0], grid=(2, 2)),))
    region, many = (torch.arange(300) >= 10).long(), words(300)
    told = {"encoder_hidden_states": many, "cross_attention_kwargs": {"regions": seen(region >= 0, region)}}
    with pytest.raises(ValueError, match="prompts of 223 tokens, and the longest has 290"):
        predict(model, noisy(), 300, told)
    region = torch.arange(300) // 30  # as long, of ten prompts
    told["cross_attention_kwargs"] = {"regions": seen(region >= 0, region)}
    assert predict(model, noisy(), 300, told).isfinite().all()
    monkeypatch.setattr(zimage, "works_ahead", lambda device: True)  # as a GPU, which is not waited for
    monkeypatch.setattr(zimage, "longest_prompt", None)
    assert predict(model, noisy(), 300, told).isfinite().all()


def test_z_image_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = ZImageTransformer2DModel(axes_lens=[1536, 512, 512])  # as published, Turbo too
        model = with_layout(stock, num_experts=5)
        assert dict(model.named_parameters()).keys() == dict(stock.named_parameters()).keys()
        METHODS["lora_experts"](rank=16, alpha=16).prepare(model, seed=0)
    assert sum(p.numel() for p in stock.parameters()) == 6_154_908_736
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    parts = ("down_ErC", "up_EFr")
    experts = {f"layers.{b}.experts.{x}.{p}" for b in range(30) for x in ("widen", "narrow") for p in parts}
    assert added == names | experts
    assert {name for name, p in model.named_parameters() if p.requires_grad} == experts
    wide, narrow = 16 * (3840 + 2 * 10240), 16 * (10240 + 3840)  # of one expert
    assert sum(model.get_parameter(name).numel() for name in experts) == 5 * 30 * (wide + narrow)
    family = backbone_of(model)
    assert (pyramid_of(model).count, pyramid_of(model).skipped) == (1, 1)
    assert family.text_width(model.config) == 2560 and family.latent_channels(model.config) == 16
    counts = {
        Target.ATTENTION: 34 * 4,
        Target.PROJECTION: 32 + 2 + 1 + 1 + 2,  # modulations, timestep, into it, text, out of it
        Target.FEED_FORWARD: 34 * 3,
    }
    for target, count in counts.items():
        assert len(adapted(stock, target)) == count, target
    assert len(adapted(model, Target.FEED_FORWARD)) == counts[Target.FEED_FORWARD] - 30 * 3


def test_other_methods_are_refused(models):
    for name in ("full", "shared_expert", "decoder", "controlnet_xs"):
        with pytest.raises(ConfigError):
            METHODS[name]().prepare(with_layout(models.z_image(), num_experts=2), seed=0)
