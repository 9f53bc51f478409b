"""Names and limits that settings, help and completion need without waiting for torch and FFmpeg."""

from __future__ import annotations

CODECS = ("h264", "h264-rgb", "ffv1")
"""Those of `attacks.codec.CODECS`."""
CRF = (0, 51)
"""Limits of x264's constant rate factor, best and worst."""
FOCUS_QP = (-20, 0)
"""Limits of what is added to the quantiser in focus, finest and none."""
