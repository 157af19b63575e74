"""Qwen-Image's transformer. Saved pipelines name this package as the home of its class."""

from .model import MaMoEQwenImageTransformer2DModel as MaMoEQwenImageTransformer2DModel
