"""Transformers in which text and picture are one sequence. Saved pipelines name this package as the home of a class."""

from .model import MaMoEFluxTransformer2DModel as MaMoEFluxTransformer2DModel
from .model2 import MaMoEFlux2Transformer2DModel as MaMoEFlux2Transformer2DModel
