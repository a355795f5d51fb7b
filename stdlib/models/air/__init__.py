"""Attend, Infer, Repeat: how many objects an image shows, where, and what they look like.

Source: Eslami et al. 2016, 'Attend, infer, repeat: fast scene understanding with generative
models', NeurIPS.
"""

from .networks import Networks, Sizes
from .programs import Prior, found, guide, model, objective
from .scenes import Scenes, scenes
from .transformer import Where, read, write

__all__ = [
    "Networks",
    "Prior",
    "Scenes",
    "Sizes",
    "Where",
    "found",
    "guide",
    "model",
    "objective",
    "read",
    "scenes",
    "write",
]
