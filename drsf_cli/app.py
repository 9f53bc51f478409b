"""The command line: parses, calls, prints, exits.

Logic raises its own errors; here each becomes one line and an exit code (weights/errors.py has the table).

Commands import what they work with when they are called, so that help and completion do not wait for torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from drsf_cli.commands import audit, deid, demo, doctor, export, infer, report, signals, viz, weights
from drsf_cli.commands import eval as evaluate
from drsf_cli.commands.output import ErrorStyle, err, out, print_error
from drsf_cli.report.versions import versions
from export.waiting import wait_passively
from weights.errors import DrsfError

app = typer.Typer(
    name="drsf",
    help="De-identify driver-facing video and keep what safety research reads from it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command(name="deid", epilog=deid.EPILOG)(deid.deid)
app.command(name="audit", epilog=audit.EPILOG)(audit.audit)
app.command(name="infer", epilog=infer.EPILOG)(infer.infer)
app.command(name="eval", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(name="signals", epilog=signals.EPILOG)(signals.signals)
app.command(name="viz", epilog=viz.EPILOG)(viz.viz)
app.command(name="report", epilog=report.EPILOG)(report.report)
app.command(name="export", epilog=export.EPILOG)(export.export)
app.command(name="demo", epilog=demo.EPILOG)(demo.demo)
app.command(name="doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.add_typer(weights.app, name="weights")

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(versions()["drsf"])
        raise typer.Exit


@app.callback(invoke_without_command=False)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DRSF_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    context.ensure_object(ErrorStyle).debug = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, which the console script exits with."""
    wait_passively(os.environ)
    style = ErrorStyle()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _end_as_ctrl_c_does()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(args=arguments, prog_name="drsf", standalone_mode=False, obj=style)
    except typer.TyperException as error:  # a flag, a value or a command that it does not know
        return _misused(error)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:
        if style.debug:
            raise
        return _failed(error)
    if code == STOPPED:
        with contextlib.suppress(OSError):  # the terminal may be gone
            err.print("[red]stopped[/]: nothing was left behind")
    return code if isinstance(code, int) else 0


def _end_as_ctrl_c_does() -> None:
    """Let what a job scheduler sends, and a terminal that is closed, end a run so that nothing is left behind."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup asks for
            signal.signal(signal.SIGHUP, signal.default_int_handler)


def _misused(error: typer.TyperException) -> int:
    """Print what was wrong with the command; returns the exit code."""
    if error.format_message():  # else the help has been printed
        context = getattr(error, "ctx", None)
        command = "drsf" if context is None else context.command_path
        print_error(f"{error.format_message().rstrip('.')}; see {command} --help.")
    return error.exit_code


def _failed(error: Exception) -> int:
    """Print an error of the run; returns the exit code."""
    if isinstance(error, DrsfError):
        print_error(error)
        return error.exit_code
    print_error(f"{type(error).__name__}: {error} (a fault in drsf; drsf --debug shows where).")
    return DrsfError.exit_code
