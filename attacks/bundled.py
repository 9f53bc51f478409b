"""Which drawers come with drsf. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DRAWERS: Mapping[str, str] = MappingProxyType(
    {
        "mtcnn": "drawer_mtcnn.safetensors",
        "retinaface": "drawer_retinaface.safetensors",
        "retinaface-resnet50": "drawer_retinaface.safetensors",
        "blazeface": "drawer_mediapipe.safetensors",
        "blazeface-full": "drawer_mediapipe.safetensors",
    }
)
"""Detector -> file of the drawer of a chain with it. With another detector it is MTCNN's that draws or is fitted."""
