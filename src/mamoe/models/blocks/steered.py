"""What our networks have beyond diffusers' own classes, whatever the family: made of a stock one, read, turned back."""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

import torch

from mamoe.models.blocks.conversion import check_whole, filled, initial_state


class SteeredNetwork:
    """Mixed into a network of diffusers whose blocks know regions and experts; expert 0 keeps the stock names."""

    stock: ClassVar[type[Any]]  # diffusers' class
    own_config: ClassVar[tuple[str, ...]]  # arguments that it does not have
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
        with torch.device("meta"):
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
        with torch.device("meta"):
            config = {key: value for key, value in own.config.items() if key not in self.own_config}
            model: Any = cast(Any, self.stock).from_config(config)
        state = own.state_dict()
        return filled(model, own, {key: state[key] for key in model.state_dict()})
