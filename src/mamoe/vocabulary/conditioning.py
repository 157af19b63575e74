"""What steers the network: text tokens, and per level who attends what and which expert works where."""

from __future__ import annotations

import copy
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor

_ROW = 8  # numbers of half precision in 16 bytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextTokens:
    """All prompts of each picture, encoded and laid end to end along the token axis."""

    embeds: Float[Tensor, "B S D"]
    valid: Bool[Tensor, "B S"]  # False = padding
    region: Int64[Tensor, "B S"]  # the region a token speaks of; 0 where padding
    place: Int64[Tensor, "B S"] | None = None  # of a token in its prompt; None: each prompt's are counted from 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureConditioning:
    """What networks of the SDXL and the PixArt-alpha kind are told of each picture as a whole, beside the words.

    Podell et al. 2023, section 2.2; Chen et al. 2023 (arXiv 2310.00426).
    """

    pooled: Float[Tensor, "B P"] | None  # the global prompt as one vector; None: PixArt-alpha's, which knows no such
    time_ids: Float[Tensor, "B 6"]  # see framing_rows


def rounded_up(num_experts: int) -> int:
    """Columns of a matrix with one for every expert, whose rows are whole 16 bytes in half precision."""
    return num_experts + -num_experts % _ROW


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertRouting:
    """Which expert works on which cell, sorted by expert so that each expert reads one slice.

    Row k sends flattened cell ``token[k]`` (= b*N + n) to the expert whose slice ``offsets`` puts k in. With hard
    routing K = B*N and ``weight`` is None: ``token`` is a permutation. With area routing a cell may occur once per
    expert present in it, and its outputs are blended by ``weight`` (sums to 1 per cell).

    Args:
        known: ``back`` and ``member``, of who has made those of several routings at once; else they are found here.
    """

    token: Int64[Tensor, "K"]
    offsets: Int32[Tensor, "E"]  # end of each expert's slice; offsets[-1] = K
    weight: Float[Tensor, "K"] | None
    # What follows from these, found once instead of in every layer that is routed:
    back: Int64[Tensor, "M"] | None = field(init=False)  # the row of every cell, with hard routing
    # Whose slice a row is in. The columns past E are empty: products take rows of whole 16 bytes.
    member: Shaped[Tensor, "K E8"] = field(init=False)
    known: InitVar[tuple[Tensor, Tensor] | None] = None

    def __post_init__(self, known: tuple[Tensor, Tensor] | None) -> None:
        back, member = self._found() if known is None else known
        object.__setattr__(self, "back", back)
        object.__setattr__(self, "member", member)

    def _found(self) -> tuple[Tensor | None, Tensor]:
        row = torch.arange(len(self.token), device=self.token.device)
        back = torch.empty_like(row).index_copy_(0, self.token, row) if self.weight is None else None
        ends = F.pad(self.offsets, (0, rounded_up(len(self.offsets)) - len(self.offsets)), value=len(self.token))
        begin = F.pad(ends[:-1], (1, 0))
        return back, (row.unsqueeze(1) < ends) & (row.unsqueeze(1) >= begin)

    def computed_in(self, dtype: torch.dtype) -> ExpertRouting:
        """The same with its membership in the type that products have."""
        own = copy.copy(self)
        object.__setattr__(own, "member", self.member.to(dtype))
        return own


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelConditioning:
    """What every transformer block of one UNet level needs."""

    grid: tuple[int, int]
    # Who may attend, every row with a True; or log weights added to the scores, -inf = may not, every row with one that
    # is finite. None = every cell attends every token.
    attend: Bool[Tensor, "B N S"] | Float[Tensor, "B N S"] | None
    routing: ExpertRouting | None  # None = dense: every cell goes through expert 0
    # The region that each token speaks of, 0 = the whole picture: what networks ask in which text attends text, too.
    region: Int64[Tensor, "B S"] | None = None

    def computed_in(self, dtype: torch.dtype, *, weighs: bool) -> LevelConditioning:
        """The same in the type that a network's products have, made once for all blocks of the level.

        Every layer that gets a boolean mask, or a membership of another type, has to make this of it.

        Args:
            dtype: of the products.
            weighs: whether the mask becomes log weights too; those who read it otherwise need it as it is.
        """
        attend, routing = self.attend, self.routing
        if weighs and attend is not None and attend.dtype == torch.bool:
            attend = attend.to(dtype).log_()  # 0 and minus infinity
        if routing is not None and routing.member.dtype != dtype:
            routing = routing.computed_in(dtype)
        if attend is self.attend and routing is self.routing:
            return self
        return replace(self, attend=attend, routing=routing)

    def with_more_tokens(self, count: int) -> LevelConditioning:
        """The same with ``count`` tokens behind the others, which no cell sees."""
        assert self.attend is not None, "a mask hides them"
        nothing = False if self.attend.dtype == torch.bool else -torch.inf
        region = None if self.region is None else F.pad(self.region, (0, count))
        return replace(self, attend=F.pad(self.attend, (0, count), value=nothing), region=region)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conditioning:
    """The text and, per level of the pyramid, who attends what and which expert works where."""

    text: TextTokens
    levels: tuple[LevelConditioning, ...]  # L, finest first; sizes follow ceil(size / 2)
    picture: PictureConditioning | None = None  # None: the base model knows no such thing
    padded: bool = False  # whether tokens must be left out that no level's mask leaves out

    def unet_inputs(self) -> dict[str, Any]:
        """Keyword arguments for a UNet call; without any layout a stock UNet takes them too."""
        inputs: dict[str, Any] = {"encoder_hidden_states": self.text.embeds}
        if any(level.attend is not None or level.routing is not None for level in self.levels):
            inputs["cross_attention_kwargs"] = {"regions": self.levels}
        elif self.padded:
            inputs["encoder_attention_mask"] = self.text.valid
        if self.picture is not None:
            inputs["added_cond_kwargs"] = _told(self.picture)
        if self.text.place is not None:
            inputs["word_places"] = self.text.place
        return inputs


def _told(picture: PictureConditioning) -> dict[str, Tensor]:
    sizes = picture.time_ids
    if picture.pooled is not None:
        return {"text_embeds": picture.pooled, "time_ids": sizes}
    return {"resolution": sizes[:, :2], "aspect_ratio": sizes[:, 4:5] / sizes[:, 5:6]}  # of the file, of the picture


def level_grids(grid: tuple[int, int], num_levels: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of every UNet level, finest first: each is half the one before, rounded up, as strided convolutions do."""
    return tuple((-(-grid[0] // 2**level), -(-grid[1] // 2**level)) for level in range(num_levels))
