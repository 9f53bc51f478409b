"""drsf: de-identify driver-facing video and keep what safety research reads from it.

The Python interface: load models once, use them for many videos.

    from drsf_cli import DeidSettings, Models, deidentify
    settings = DeidSettings()
    models = Models.load(settings.victims)
    report = deidentify("drive.mp4", "drive_deid.mp4", settings, models=models)

`infer` reads a video, `evaluate` compares two readings, `compare` draws the three panels, `write_html` makes the page
of reports; `read_observations` and `write_observations` are the JSON list between them, and `make_demo_clip` a clip to
try it on. All raise DrsfError, one sentence (weights/errors.py has the tree). docs/demo.ipynb shows them at work.
"""

from __future__ import annotations

from drsf_cli.deidentify import deidentify
from drsf_cli.demo_clip import make_demo_clip
from drsf_cli.evaluate import Evaluation, evaluate
from drsf_cli.infer import infer
from drsf_cli.models import Models
from drsf_cli.panels import compare
from drsf_cli.records import read_observations, write_observations
from drsf_cli.report import write_html
from drsf_cli.settings import DeidSettings, VictimNames
from weights.errors import DrsfError

__all__ = [
    "DeidSettings",
    "DrsfError",
    "Evaluation",
    "Models",
    "VictimNames",
    "compare",
    "deidentify",
    "evaluate",
    "infer",
    "make_demo_clip",
    "read_observations",
    "write_html",
    "write_observations",
]
