"""What shell completion offers for a flag: the names of the tables that decide.

Those of step rules and codecs need torch and FFmpeg, which are imported when such a flag is completed.
"""

from __future__ import annotations

from typing import get_args

from attacks.effort import EFFORTS as _EFFORTS
from drsf_cli.settings import Rotation, Shape
from victims import registry

DETECTORS = registry.names("detector")
ALIGNERS = registry.names("aligner")
GAZE_ESTIMATORS = registry.names("gaze")
EFFORTS = list(_EFFORTS)
SHAPES = list(get_args(Shape))
ROTATIONS = list(get_args(Rotation))


def attacks() -> list[str]:
    """Step rules, and `none`."""
    from attacks.steps import METHODS

    return ["none", *METHODS]


def codecs() -> list[str]:
    """Codecs of the output."""
    from attacks.codec import CODECS

    return list(CODECS)
