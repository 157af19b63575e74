"""Ways of fine-tuning a UNet: what is added to it, which of its weights train, and how that comes off again."""

from .concat import Concat as Concat
from .controlnet_xs import ControlNetXS as ControlNetXS
from .decoder import Decoder as Decoder
from .dora import Dora as Dora
from .full import Full as Full
from .lora import Lora as Lora
from .lora import to_channels_last as to_channels_last
from .lora_experts import LoraExperts as LoraExperts
from .method import Method as Method
from .registry import method_of as method_of
from .shared_expert import SharedExpert as SharedExpert
