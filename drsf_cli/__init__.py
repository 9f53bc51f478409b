"""drsf: de-identify driver-facing video and keep what safety research reads from it.

The Python interface: load models once, use them for many videos.

    from drsf_cli import DeidSettings, Models, deidentify
    settings = DeidSettings()
    models = Models.load(settings.victims)
    report = deidentify("drive.mp4", "drive_deid.mp4", settings, models=models)

`infer` reads a video, `signals` makes a table of a reading, `evaluate` compares two readings, `compare` draws the three
panels, `write_html` makes the page of reports. `write_observations` and `read_observations` keep a reading as JSON, and
`make_demo_clip` makes a clip to try all this on. Their errors are subclasses of DrsfError (weights/errors.py), each
with a message of one sentence. docs/demo.ipynb shows the functions at work.

Names are imported on first use: the command line is in this package too, and its help should not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import export  # noqa: F401  before anything that may import ONNX Runtime, see there

if TYPE_CHECKING:
    from drsf_cli.deid.panels import compare as compare
    from drsf_cli.deid.pipeline import deidentify as deidentify
    from drsf_cli.measure.evaluation import Evaluation as Evaluation
    from drsf_cli.measure.evaluation import evaluate as evaluate
    from drsf_cli.measure.records import read_observations as read_observations
    from drsf_cli.measure.records import write_observations as write_observations
    from drsf_cli.measure.signals import signals as signals
    from drsf_cli.media.demo_clip import make_demo_clip as make_demo_clip
    from drsf_cli.readers.infer import infer as infer
    from drsf_cli.readers.models import Models as Models
    from drsf_cli.report.page import write_html as write_html
    from drsf_cli.settings import DeidSettings as DeidSettings
    from drsf_cli.settings import VictimNames as VictimNames
    from weights.errors import DrsfError as DrsfError

_HOMES = {
    "DeidSettings": "drsf_cli.settings",
    "DrsfError": "weights.errors",
    "Evaluation": "drsf_cli.measure.evaluation",
    "Models": "drsf_cli.readers.models",
    "VictimNames": "drsf_cli.settings",
    "compare": "drsf_cli.deid.panels",
    "deidentify": "drsf_cli.deid.pipeline",
    "evaluate": "drsf_cli.measure.evaluation",
    "infer": "drsf_cli.readers.infer",
    "make_demo_clip": "drsf_cli.media.demo_clip",
    "read_observations": "drsf_cli.measure.records",
    "signals": "drsf_cli.measure.signals",
    "write_html": "drsf_cli.report.page",
    "write_observations": "drsf_cli.measure.records",
}
"""No module of this package may have one of these names: it would stand in its place once it is imported."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
