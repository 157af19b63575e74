"""The UNet whose blocks know regions and experts. Saved pipelines name this package as the home of its class."""

from .model import MaMoEUNet2DConditionModel as MaMoEUNet2DConditionModel
