"""What shell completion offers for a flag.

The names are written out here, so that completion need not import torch. A test compares them with the tables that
decide (victims/registry.py, attacks/steps.py, effort.py and codec.py).
"""

from __future__ import annotations

DETECTORS = ["mtcnn", "retinaface", "retinaface-resnet50", "blazeface", "blazeface-full"]
ALIGNERS = ["fan-compact", "fan", "facemesh"]
GAZE_ESTIMATORS = ["gaze-compact", "mpiigaze", "mpiifacegaze", "eth-xgaze", "iris"]
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
EFFORTS = ["fast", "normal", "best"]
SHAPES = ["own", "average"]
CODECS = ["h264", "h264-rgb", "ffv1"]
ROTATIONS = ["0", "90", "180", "270", "auto"]
