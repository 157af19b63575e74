"""Stable Diffusion 3's transformer. Saved pipelines name this package as the home of its class."""

from .model import MaMoESD3Transformer2DModel as MaMoESD3Transformer2DModel
