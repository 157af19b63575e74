"""Transformers whose blocks know regions and experts. Saved pipelines name this package as the home of a class."""

from .pixart import MaMoEPixArtTransformer2DModel as MaMoEPixArtTransformer2DModel
