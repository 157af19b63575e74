"""The layouts of a batch become what the UNet is steered by: text tokens, and per level a mask and a routing."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, Shaped
from torch import Tensor

from mamoe.conditioning.experts import concatenate_routings, expert_routings
from mamoe.conditioning.masks import area_shares, attend_masks, attend_weights, region_coverage, region_masks
from mamoe.conditioning.text import EncodedPrompt, Prompts
from mamoe.machine.arrays import tensor_of
from mamoe.machine.transfers import sent, sent_together
from mamoe.vocabulary.batch import RegionBatch, framing_rows
from mamoe.vocabulary.conditioning import (
    Conditioning,
    ExpertRouting,
    LevelConditioning,
    PictureConditioning,
    TextTokens,
    level_grids,
)
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.layout import LayoutSettings, Strength

TOKEN_MULTIPLE = 8  # masked attention on a GPU copies masks of other widths to an aligned buffer in every call


class Conditioner:
    """Turns layout tables into a :class:`Conditioning`, on the device, once per step.

    Args:
        encoder: encodes the prompts.
        settings: those the tables were made with.
        num_levels: levels of the network, as its backbone says.
        skipped: halvings of the latent before the first level, log2 of a transformer's patch.
        sized: whether the network is told how large pictures are, whether or not its prompts are pooled.
    """

    def __init__(
        self, encoder: Prompts, settings: LayoutSettings, num_levels: int, skipped: int = 0, *, sized: bool = False
    ) -> None:
        self.encoder = encoder
        self.settings = settings
        self.num_levels = num_levels + skipped
        self.skipped = skipped
        self.sized = sized

    def __call__(
        self, regions: RegionBatch, *, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Conditioning:
        """What ``regions`` asks for, with embeddings in ``dtype``. A picture's part does not depend on its batch mates.

        ``attend`` is None where every picture has one prompt and no token is padding; ``routing`` is None without MoE.

        Raises:
            ValueError: the tables were made for another number of experts.
        """
        if regions.num_experts != self.settings.num_experts:
            raise ValueError(
                f"The layouts were made for {regions.num_experts} experts, the settings have "
                f"{self.settings.num_experts}. Use one LayoutSettings for both."
            )
        whole = self.encoder.encode_whole([prompts[0] for prompts in regions.prompts])
        embeds = self._lay_out(whole, regions.prompts)
        restricted = _restricts(regions, embeds)
        multiple = TOKEN_MULTIPLE if restricted else 1
        text = text_tokens(embeds, device, dtype, multiple, words_end=self.encoder.words_end)
        tables = regions.to(device)
        attends: Sequence[Tensor | None] = [None] * self.num_levels
        steered = self.settings.region_attention or self.settings.moe
        if restricted and steered:
            attends = self._attends(tables, text)
        routings: Sequence[ExpertRouting | None] = [None] * self.num_levels
        if self.settings.moe:
            routings = expert_routings(tables, self.settings.expert_resize, self.num_levels)
        grids = level_grids(regions.grid, self.num_levels)
        levels = [
            LevelConditioning(grid=grid, attend=attend, routing=routing, region=text.region)
            for grid, attend, routing in zip(grids, attends, routings, strict=True)
        ]
        rows = _whole_framings(regions) if regions.framing is None else regions.framing
        return Conditioning(
            text=text,
            levels=tuple(levels[self.skipped :]),
            picture=picture_conditioning(whole, rows, device, dtype, sized=self.sized),
            padded=restricted and not steered,
        )

    def _attends(self, tables: RegionBatch, text: TextTokens) -> Sequence[Tensor]:
        shares = region_coverage(tables)
        if self.settings.strength is Strength.SOFT:
            levels = area_shares(shares, self.num_levels)
            return [attend_weights(share, text.region, text.valid) for share in levels]
        mode, threshold = self.settings.region_resize, self.settings.pool_threshold
        masks = region_masks(shares, mode, threshold, self.num_levels)
        return attend_masks(masks, text.region, text.valid)

    def _lay_out(
        self, whole: Sequence[EncodedPrompt], prompts: Sequence[Sequence[str]]
    ) -> list[list[Float[Tensor, "_ D"]]]:
        """The embedding of every region of every picture; region 0 is padded, the others as the settings say."""
        globals_ = iter([encoded.tokens for encoded in whole])
        if not self.settings.global_padding:
            # Attention is causal: a prompt's tokens are the same with and without what follows them.
            texts = [regions[0] for regions in prompts]
            globals_ = (self.encoder.without_padding(*pair) for pair in zip(texts, globals_, strict=True))
        own = [prompt for regions in prompts for prompt in regions[1:]]
        others = iter(self.encoder.encode(own, padded=self.settings.encoder_padding))
        return [[next(globals_), *(next(others) for _ in regions[1:])] for regions in prompts]


def picture_conditioning(
    whole: Sequence[EncodedPrompt],
    framing: Int32[Tensor, "B 6"],
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    sized: bool = False,
) -> PictureConditioning | None:
    """What the network is told of each picture as a whole; None where it is told nothing.

    That is where its prompts are not pooled, and it is not ``sized`` either.

    The framing's numbers are given in float32 whatever ``dtype`` is: bfloat16 knows no 1023.
    """
    pooled = [encoded.pooled for encoded in whole if encoded.pooled is not None]
    if not pooled and not sized:
        return None
    return PictureConditioning(
        pooled=sent(torch.stack(pooled), device, dtype) if pooled else None,
        time_ids=sent(framing, device, torch.float32),
    )


def _whole_framings(regions: RegionBatch) -> Int32[Tensor, "B 6"]:
    factor = isqrt(regions.cell_pixels)
    size = (regions.grid[0] * factor, regions.grid[1] * factor)
    return framing_rows([Framing.whole(size)] * len(regions))


def text_tokens(
    embeds: Sequence[Sequence[Float[Tensor, "_ D"]]],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    multiple: int = 1,
    *,
    words_end: int | None = None,
) -> TextTokens:
    """Each picture's prompts one after another, padded at the end to the longest one; S is a multiple of ``multiple``.

    Region r's tokens are those of the picture's r-th embedding. An embedding that occurs again travels to the device
    once: pictures have many prompts, most of them in common. ``words_end`` is that of the encoder.
    """
    begins: dict[int, int] = {}
    pieces: list[Tensor] = []
    total = 0
    # Lists of Python's: a tensor for each step of this reckoning takes the host longer than all the numbers.
    columns: list[list[list[int]]] = [[], [], []]
    for picture in embeds:
        place: list[int] = []
        region: list[int] = []
        spoken: list[int] = []
        for r, embed in enumerate(picture):
            tokens = embed.shape[0]
            if id(embed) not in begins:
                begins[id(embed)] = total
                pieces.append(embed)
                total += tokens
            place.extend(range(begins[id(embed)], begins[id(embed)] + tokens))
            region.extend([r] * tokens)
            spoken.extend(range((words_end or 0) - tokens, words_end or 0))
        for column, own in zip(columns, (place, region, spoken), strict=True):
            column.append(own)
    longest = max(map(len, columns[0]))
    width = longest + -longest % multiple
    for column, padding in zip(columns, (total, 0, 0), strict=True):
        for own in column:
            own.extend([padding] * (width - len(own)))
    numbers = sent(tensor_of(np.array(columns if words_end is not None else columns[:2])), device)
    table = sent_together([*pieces, pieces[0].new_zeros(1, pieces[0].shape[1])], device, dtype)  # last is padding
    return TextTokens(
        embeds=F.embedding(numbers[0], table),
        valid=numbers[0] < total,
        region=numbers[1],
        place=None if words_end is None else numbers[2],
    )


def concatenate_conditionings(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Several conditionings as one of a larger batch, e.g. null and conditional for guidance.

    Raises:
        ValueError: they differ in their levels, or only some have a routing or something said of the whole picture.
    """
    kinds = {tuple((level.grid, level.routing is None) for level in c.levels) for c in conditionings}
    if len(kinds) != 1:
        raise ValueError(f"Conditionings to concatenate must agree in (grid, dense) per level, got {sorted(kinds)}.")
    pictures = [c.picture for c in conditionings if c.picture is not None]
    if len(pictures) not in (0, len(conditionings)):
        raise ValueError(f"Conditionings to concatenate must all have a pooled prompt, or none: {len(pictures)} have.")
    longest = max(c.text.valid.shape[1] for c in conditionings)
    texts = [_pad_text(c.text, longest) for c in conditionings]
    text = TextTokens(
        embeds=torch.cat([t.embeds for t in texts]),
        valid=torch.cat([t.valid for t in texts]),
        region=torch.cat([t.region for t in texts]),
        place=torch.cat(places) if (places := [t.place for t in texts if t.place is not None]) else None,
    )
    per_level = list(zip(*(c.levels for c in conditionings), strict=True))
    padded = any(c.padded or c.text.valid.shape[1] < longest for c in conditionings)
    if all(level.attend is None and level.routing is None for levels in per_level for level in levels):
        levels = conditionings[0].levels
        return Conditioning(text=text, levels=levels, picture=_concatenate_pictures(pictures), padded=padded)
    levels = [_concatenate_level(levels, texts, padded) for levels in per_level]
    return Conditioning(text=text, levels=tuple(levels), picture=_concatenate_pictures(pictures))


def _concatenate_pictures(pictures: Sequence[PictureConditioning]) -> PictureConditioning | None:
    if not pictures:
        return None
    pooled = [one.pooled for one in pictures if one.pooled is not None]
    return PictureConditioning(
        pooled=torch.cat(pooled) if pooled else None, time_ids=torch.cat([one.time_ids for one in pictures])
    )


def _concatenate_level(
    levels: Sequence[LevelConditioning], texts: Sequence[TextTokens], padded: bool
) -> LevelConditioning:
    cells = levels[0].grid[0] * levels[0].grid[1]
    attend = None
    if padded or any(level.attend is not None for level in levels):
        masks = [_full_attend(level.attend, text, cells) for level, text in zip(levels, texts, strict=True)]
        weighs = any(mask.dtype != torch.bool for mask in masks)
        attend = torch.cat([_as_weights(mask) for mask in masks] if weighs else masks)
    routings = [level.routing for level in levels if level.routing is not None]
    tokens = [len(text.valid) * cells for text in texts]
    routing = concatenate_routings(routings, tokens) if routings else None
    region = torch.cat([text.region for text in texts])
    return LevelConditioning(grid=levels[0].grid, attend=attend, routing=routing, region=region)


def _full_attend(attend: Shaped[Tensor, "B N S1"] | None, text: TextTokens, cells: int) -> Shaped[Tensor, "B N S"]:
    if attend is None:
        return text.valid.unsqueeze(1).expand(-1, cells, -1)
    nothing = False if attend.dtype == torch.bool else -torch.inf
    return F.pad(attend, (0, text.valid.shape[1] - attend.shape[2]), value=nothing)


def _as_weights(attend: Shaped[Tensor, "B N S"]) -> Float[Tensor, "B N S"]:
    """A boolean mask as the log weights that do the same."""
    if attend.dtype != torch.bool:
        return attend
    return torch.zeros(attend.shape, device=attend.device).masked_fill(~attend, -torch.inf)


def _restricts(regions: RegionBatch, embeds: Sequence[Sequence[Tensor]]) -> bool:
    """Whether a cell, or a token of another prompt, may have to leave out a token.

    Where text attends too, two prompts that every cell sees do not see each other all the same. Asks the prompts alone:
    the host awaits no device.
    """
    several = any(len(prompts) > 1 for prompts in regions.prompts)
    return several or len({sum(map(len, picture)) for picture in embeds}) > 1


def _pad_text(text: TextTokens, length: int) -> TextTokens:
    missing = length - text.valid.shape[1]
    return TextTokens(
        embeds=F.pad(text.embeds, (0, 0, 0, missing)),
        valid=F.pad(text.valid, (0, missing)),
        region=F.pad(text.region, (0, missing)),
        place=None if text.place is None else F.pad(text.place, (0, missing)),
    )
