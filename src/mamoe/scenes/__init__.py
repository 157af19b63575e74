"""Synthetic street scenes with exact panoptic maps, captions and instance prompts."""

from .palette import COLOURS
from .scene import Domain, Scene, draw_scene
from .writer import scenes_problems, write_scenes

__all__ = ["COLOURS", "Domain", "Scene", "draw_scene", "scenes_problems", "write_scenes"]
