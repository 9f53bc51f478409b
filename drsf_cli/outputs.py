"""Where outputs go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drsf_cli.images import is_image
from drsf_cli.video import video_suffix
from weights.errors import UsageError

SUFFIX = "_deid"


def default_name(source: Path, codec: str) -> str:
    """The name of an input's output: `drive.avi` becomes `drive_deid.mp4`, a picture a PNG, a folder a folder."""
    if source.is_dir():
        return source.name + SUFFIX
    return source.stem + SUFFIX + (".png" if is_image(source) else video_suffix(codec))


def plan_outputs(inputs: Sequence[Path], output: Path | None, codec: str) -> list[Path]:
    """One output for each input, none twice. `output` names a file for one input, a folder for several.

    Without it outputs lie beside their inputs. Raises UsageError.
    """
    if output is None:
        planned = [source.parent / default_name(source, codec) for source in inputs]
    elif output.is_dir() or len(inputs) > 1:
        if not output.is_dir():
            raise UsageError(f"-o {output} must be a folder that is there, because there are several inputs.")
        planned = [output / default_name(source, codec) for source in inputs]
    else:
        planned = [output]
    for position, path in enumerate(planned):
        if path in planned[:position]:
            raise UsageError(f"two inputs would both be written to {path}; rename one, or give them separate folders.")
    return planned
