"""Options that several commands share, and the panels that group all options in the help.

`file_flag("--json", "Write all figures as JSON.")` is an option of the panel of files: its flags, then its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from drsf_cli.commands.config import load_config, show_all
from drsf_cli.settings import Rotation
from export.device import DEVICES, Device
from victims import registry
from victims.chains import CHAINS
from weights.errors import UsageError


def one_thread_each() -> None:
    """Let torch compute each sum on one thread: a run shares its work among cores by itself (victims/crew.py).

    It holds for the process, so a command says it, and no function of the library.
    """
    import torch

    torch.set_num_threads(1)


def panel(title: str | None) -> Callable[..., Any]:
    """What makes the options of one panel of the help; without a title, of the one that has --help.

    It takes flags, and the text last. `rare`: only --help-all shows the option. `words`: what the shell completes.
    """

    def option(*given: str, rare: bool = False, words: Sequence[str] = (), **more: Any) -> Any:
        *flags, text = given
        completion = (lambda: list(words)) if words else None
        return typer.Option(*flags, help=text, hidden=rare, autocompletion=completion, rich_help_panel=title, **more)

    return option


file_flag, victim_flag, attack_flag, cover_flag, run_flag = map(
    panel, ("Input and output", "Victims", "Attack", "Covering", None)
)

Chain = Annotated[
    str | None, victim_flag("--chain", f"Detector, aligner and gaze at once: {', '.join(CHAINS)}.", words=list(CHAINS))
]
_DETECTORS, _ALIGNERS, _GAZES = (registry.names(role) for role in ("detector", "aligner", "gaze"))
Detector = Annotated[
    str | None, victim_flag("-d", "--detector", f"{', '.join(_DETECTORS)}; or NAME@FILE.", words=_DETECTORS)
]
Aligner = Annotated[str | None, victim_flag("-a", "--aligner", f"{', '.join(_ALIGNERS)}; or none.", words=_ALIGNERS)]
Gaze = Annotated[str | None, victim_flag("-z", "--gaze", f"{', '.join(_GAZES)}; or none.", words=_GAZES)]
Camera = Annotated[Path | None, victim_flag("--camera", "Camera intrinsics: an OpenCV YAML file.", rare=True)]
AllowUnknown = Annotated[
    bool, victim_flag("--allow-unknown-weights", "Accept weight files that the catalogue does not know.", rare=True)
]
Mask = Annotated[str | None, file_flag("-m", "--mask", "How heads were hidden; default: as the report says.")]
Start = Annotated[float | None, file_flag("--start", "Begin at this second of the input.")]
End = Annotated[float | None, file_flag("--end", "Stop before this second of the input.")]
Fps = Annotated[float | None, file_flag("--fps", "Frame rate of pictures and of streams without times.", rare=True)]
Rotate = Annotated[
    str, file_flag("--rotate", "Turn frames clockwise: 90, 180, 270 or auto.", words=get_args(Rotation), rare=True)
]
Overwrite = Annotated[bool, file_flag("--overwrite", "Replace existing outputs.")]
JsonFile = Annotated[Path | None, file_flag("--json", "Write all figures as JSON.")]
ZonesName = Annotated[
    str | None,
    typer.Option(
        "--zones",
        metavar="NAME|FILE",
        help="Gaze zones: a TOML file, or dashboard-lhd, dashboard-rhd, a-pillar-lhd, a-pillar-rhd.",
        show_default="dashboard-lhd",
    ),
]
DeviceName = Annotated[str, run_flag("--device", "Where networks run: auto, cpu or cuda.")]
Quiet = Annotated[bool, run_flag("--quiet", "-q", "No progress bars, no tables.")]
Config = Annotated[
    Path | None,
    run_flag(
        "--config",
        "TOML file with values for these flags; typed flags win.",
        metavar="FILE",
        is_eager=True,
        callback=load_config,
    ),
]
HelpAll = Annotated[
    bool, run_flag("--help-all", "Show every option, including rarely needed ones.", is_eager=True, callback=show_all)
]


def schema_option(module: str, form: str) -> Any:
    """`--schema` of a command: it prints the JSON Schema of the Form `form` of `module`, and nothing else happens."""

    def show(context: typer.Context, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            typer.echo(getattr(import_module(module), form).schema(), nl=False)
            raise typer.Exit

    return file_flag("--schema", "Print the JSON Schema of the file.", is_eager=True, callback=show)


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n\n".join(f"Example: drsf {line}" for line in lines)


def known_device(name: str) -> Device:
    """`name` as a Device. Raises UsageError if it is none."""
    for known in DEVICES:
        if name == known:
            return known
    raise UsageError(f"--device {name} is unknown; it takes auto, cpu or cuda.")
