"""Z-Image's transformer. Saved pipelines name this package as the home of its class."""

from .model import MaMoEZImageTransformer2DModel as MaMoEZImageTransformer2DModel
