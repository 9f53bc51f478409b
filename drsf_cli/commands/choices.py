"""What completion offers for a flag. Written out here, so that a shell need not wait for torch to be imported; a test
holds these names against the tables that decide (victims/registry.py, attacks/steps.py, effort.py and codec.py)."""

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
CODECS = ["h264", "h264-rgb", "ffv1"]
ROTATIONS = ["0", "90", "180", "270", "auto"]
