"""`drsf doctor`: the command."""

from __future__ import annotations

from drsf_cli.commands.options import examples
from drsf_cli.commands.output import out

EPILOG = examples("doctor && drsf deid drive.mp4")


def doctor() -> int:
    """Say which providers, codecs, victims and weights are usable, and why the others are not.

    Exits with 1 if the defaults are not usable.
    """
    from drsf_cli.commands import tables
    from drsf_cli.readers.checkup import examine, healthy

    checks = examine()
    out.print(tables.checks(checks))
    return 0 if healthy(checks) else 1
