"""`drsf signals`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands import options
from drsf_cli.commands.options import examples, file_flag
from drsf_cli.commands.output import out
from drsf_cli.media.files import check_place

EPILOG = examples("signals drive.json -o drive.csv", "signals drive.json -o drive.parquet --zones a-pillar-rhd")


def signals(
    reading: Annotated[Path, typer.Argument(metavar="READING", help="JSON that drsf infer wrote.")],
    output: Annotated[Path, file_flag("-o", "--output", "CSV or Parquet file.")],
    zones: options.ZonesName = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
) -> None:
    """Make a table of a reading: gaze, openness, blinks, PERCLOS, yawns and glance zones of each frame."""
    from drsf_cli.measure.records import read_observations
    from drsf_cli.measure.signals import signals as make_signals
    from drsf_cli.measure.signals import write_signals

    check_place(output, overwrite)
    table = make_signals(read_observations(reading), zones)
    write_signals(output, table)
    if quiet:
        return
    found = f"{len(table.blinks)} blinks, {len(table.yawns)} yawns, {len(table.glances)} glances off the road"
    if table.timeline is None:
        found = "no blinks, yawns or glances, because the frames have no rising times"
    out.print(f"{len(table)} frames: {found}. Wrote {output}.", soft_wrap=True)
