"""Ways of fine-tuning a UNet: what is added to it, which of its weights train, and how that comes off again."""

from .concat import Concat as Concat
from .controlnet_xs import ControlNetXS as ControlNetXS
from .experts import LoraExperts as LoraExperts
from .experts import SharedExpert as SharedExpert
from .full import Decoder as Decoder
from .full import Full as Full
from .lora import Lora as Lora
from .lora import to_channels_last as to_channels_last
from .method import Method as Method
from .registry import method_of as method_of
