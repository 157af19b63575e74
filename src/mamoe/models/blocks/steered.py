"""What our networks have beyond diffusers' own classes, whatever the family: made of a stock one, read, turned back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

from mamoe.machine.skeleton import without_memory
from mamoe.models.blocks.conversion import check_whole, filled, initial_state


class Steered:
    """Mixed into a network of diffusers whose blocks know regions and experts.

    Its constructor takes arguments of its own and hands the stock one's on, as ``**config``.
    """

    stock: ClassVar[type[Any]]  # diffusers' class
    own_config: ClassVar[tuple[str, ...]]  # arguments that it does not have

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "stock" in vars(cls):
            own, stock = inspect.signature(cls.__init__), inspect.signature(cls.stock.__init__)
            cls.own_config = tuple(_own_names(own))
            cls.__init__ = _of_signature(cls.__init__, _with_own_arguments(stock, own))

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """Why a stock network of this configuration cannot be computed, or is of a kind that this class is not."""
        return []

    def skeleton_of_stock(self) -> Any:
        """A stock network of this one's sizes, without memory."""
        own: Any = self
        with without_memory():
            return self.stock.from_config({k: value for k, value in own.config.items() if k not in self.own_config})


def _own_names(signature: inspect.Signature) -> list[str]:
    return [
        name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _with_own_arguments(stock: inspect.Signature, own: inspect.Signature) -> inspect.Signature:
    """The signature of a constructor that hands the stock ones' arguments on."""
    # diffusers asks the constructor's signature which keys a saved config may hold. **config would hide the stock
    # ones; naming them here by hand would tie us to one diffusers release.
    mine = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    theirs = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in stock.parameters.items() if name != "self"]
    return own.replace(parameters=[*mine, *theirs])


def _of_signature(constructor: Callable[..., None], signature: inspect.Signature) -> Any:
    """The constructor, a function of this class alone: others may inherit the same one."""

    @functools.wraps(constructor)
    def __init__(*args: Any, **config: Any) -> None:
        constructor(*args, **config)

    __init__.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return __init__


class SteeredNetwork(Steered):
    """A network whose experts are copies of its feed-forwards; expert 0 keeps the stock names."""

    converter: ClassVar[str]  # the class method that makes one of ours of a stock one

    @classmethod
    def of_stock(cls, network: Any, options: dict[str, Any], *, copies: bool) -> Self:
        """A network with the weights of ``network``, which stays as it is.

        Args:
            network: stock, or one of ours.
            options: own arguments of the result, by name.
            copies: whether experts that ``network`` has not start as copies of its feed-forwards; without, they are
                left on torch's ``meta`` device.
        """
        made: Any = cls
        with without_memory():
            model = made.from_config(network.config, **options)
        state = initial_state(model, network, shared_expert=options["shared_expert"], copies=copies)
        return cast(Self, filled(model, network, state, whole=copies))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """Read what ``save_pretrained`` wrote; options and result as in diffusers.

        Raises:
            ConfigError: experts or a learned strength are asked for that the folder does not hold.
        """
        stock: Any = super()
        model, info = stock.from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **options)
        check_whole(
            pretrained_model_name_or_path, model.config, info["missing_keys"], f"{cls.__name__}.{cls.converter}"
        )
        return (model, info) if output_loading_info else model

    def to_dense(self) -> Any:
        """A stock network with the weights of expert 0. This one stays as it is."""
        own: Any = self
        model, state = self.skeleton_of_stock(), own.state_dict()
        return filled(model, own, {key: state[key] for key in model.state_dict()})
