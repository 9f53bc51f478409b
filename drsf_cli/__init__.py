"""drsf: de-identify driver-facing video and keep what safety research reads from it.

The Python interface: load models once, use them for many videos.

    from drsf_cli import DeidSettings, Models, deidentify
    settings = DeidSettings()
    models = Models.load(settings.victims)
    report = deidentify("drive.mp4", "drive_deid.mp4", settings, models=models)
"""

from __future__ import annotations

from drsf_cli.deidentify import DeidSettings, deidentify
from drsf_cli.infer import infer
from drsf_cli.models import Models, VictimNames

__all__ = ["DeidSettings", "Models", "VictimNames", "deidentify", "infer"]
