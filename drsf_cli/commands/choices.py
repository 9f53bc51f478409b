"""What shell completion offers for a flag: the names of the tables that decide."""

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


# written out, since their tables need torch and FFmpeg, and a shell waits for these words; a test compares them
ATTACKS = [
    "none",
    "i-fgsm",
    "mi-fgsm",
    "ni-fgsm",
    "pgd",
    "apgd",
    "tanh-adam",
    "rmsprop",
    "adam",
    "adamw",
    "adamax",
    "adagrad",
    "adadelta",
    "asgd",
    "rprop",
    "sgd",
]
CODECS = ["h264", "h264-rgb", "ffv1"]
