"""Options that several commands share, and the panels that group them in the help."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from drsf_cli.commands import choices
from drsf_cli.commands.config import RUN_PANEL
from export.device import DEVICES, Device
from victims.chains import CHAINS
from weights.errors import UsageError

VICTIM_PANEL, ATTACK_PANEL, COVER_PANEL, FILE_PANEL = "Victims", "Attack", "Covering", "Input and output"


def _victim(short: str, flag: str, help_text: str, names: list[str]) -> Any:
    return typer.Option(short, flag, help=help_text, autocompletion=lambda: names, rich_help_panel=VICTIM_PANEL)


ChainOption = Annotated[
    str,
    typer.Option(
        "--chain",
        help=f"Detector, aligner and gaze at once: {', '.join(CHAINS)}.",
        autocompletion=lambda: list(CHAINS),
        rich_help_panel=VICTIM_PANEL,
    ),
]
Detector = Annotated[
    str | None, _victim("-d", "--detector", f"{', '.join(choices.DETECTORS)}; or NAME@FILE.", choices.DETECTORS)
]
AlignerOption = Annotated[str | None, _victim("-a", "--aligner", f"{', '.join(choices.ALIGNERS)}.", choices.ALIGNERS)]
Gaze = Annotated[str | None, _victim("-z", "--gaze", f"{', '.join(choices.GAZE_ESTIMATORS)}.", choices.GAZE_ESTIMATORS)]
_SHOWN = "As for deid; default: the report's, if there is one."
ShownChain = Annotated[
    str | None,
    typer.Option("--chain", help=_SHOWN, autocompletion=lambda: list(CHAINS), rich_help_panel=VICTIM_PANEL),
]
ShownDetector = Annotated[str | None, _victim("-d", "--detector", _SHOWN, choices.DETECTORS)]
ShownAligner = Annotated[str | None, _victim("-a", "--aligner", "Likewise; or none.", choices.ALIGNERS)]
ShownGaze = Annotated[str | None, _victim("-z", "--gaze", "Likewise; or none.", choices.GAZE_ESTIMATORS)]
AllowUnknown = Annotated[
    bool,
    typer.Option(
        "--allow-unknown-weights",
        help="Accept weight files that the catalogue does not know.",
        hidden=True,
        rich_help_panel=VICTIM_PANEL,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=RUN_PANEL)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.", rich_help_panel=RUN_PANEL)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.", rich_help_panel=FILE_PANEL)]
CameraOption = Annotated[
    Path | None,
    typer.Option("--camera", help="Camera intrinsics: an OpenCV YAML file.", hidden=True, rich_help_panel=VICTIM_PANEL),
]
Start = Annotated[float | None, typer.Option("--start", help="Where reading starts, s.", rich_help_panel=FILE_PANEL)]
End = Annotated[float | None, typer.Option("--end", help="Where reading stops, s.", rich_help_panel=FILE_PANEL)]
Fps = Annotated[
    float | None,
    typer.Option("--fps", help="Frames a second of input without a clock.", hidden=True, rich_help_panel=FILE_PANEL),
]
ZonesOption = Annotated[
    str | None,
    typer.Option(
        "--zones",
        metavar="NAME|FILE",
        help="Gaze zones: a TOML file, or dashboard-lhd, dashboard-rhd, a-pillar-lhd, a-pillar-rhd.",
        show_default="dashboard-lhd",
    ),
]
Rotate = Annotated[
    str,
    typer.Option(
        "--rotate",
        help="Turn frames clockwise: 90, 180, 270 or auto.",
        autocompletion=lambda: choices.ROTATIONS,
        hidden=True,
        rich_help_panel=FILE_PANEL,
    ),
]
BatchSize = Annotated[
    int, typer.Option("-bs", "--batch-size", help="Frames processed together.", hidden=True, rich_help_panel=RUN_PANEL)
]


def schema_option(module: str, form: str) -> Any:
    """`--schema` of a command: it prints the JSON Schema of the Form `form` of `module`, and nothing else happens."""

    def show(context: typer.Context, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            typer.echo(getattr(import_module(module), form).schema(), nl=False)
            raise typer.Exit

    return typer.Option(
        "--schema", help="Print the JSON Schema of the file.", is_eager=True, callback=show, rich_help_panel=FILE_PANEL
    )


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n\n".join(f"Example: drsf {line}" for line in lines)


def known_device(name: str) -> Device:
    """`name` as a Device. Raises UsageError if it is none."""
    for known in DEVICES:
        if name == known:
            return known
    raise UsageError(f"--device {name} is unknown; it takes auto, cpu or cuda.")
