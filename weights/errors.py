"""The errors a user can meet.

    DrsfError                 1  anything that a user can fix; one sentence
    ├── UsageError            2  a flag or a value that cannot be used
    ├── InputError            3  a file that cannot be read, or has the wrong content
    ├── OutputError           4  a place that cannot be written
    ├── WeightsError          5  weights that are missing, unknown or damaged
    ├── NoFaceError           6  no face in the whole input
    ├── AuditError            7  the written file failed its audit
    ├── FidelityError         8  the recovered attributes are worse than max_error allows
    ├── DeviceError           9  the device that was asked for cannot be used
    └── BatchError           10  some files of a batch failed

The number is the exit code of the command line. It lives in the lowest package, so that every layer can
raise the same tree.
"""

from __future__ import annotations


class DrsfError(Exception):
    """One sentence: the file or flag, what is wrong, and what to do. `exit_code` is what the CLI exits with."""

    exit_code = 1


class UsageError(DrsfError):
    """A flag or a value that cannot be used."""

    exit_code = 2


class InputError(DrsfError):
    """A file that cannot be read, or has the wrong content."""

    exit_code = 3


class OutputError(DrsfError):
    """A place that cannot be written."""

    exit_code = 4


class WeightsError(DrsfError):
    """Weights that are missing, unknown or damaged."""

    exit_code = 5


class NoFaceError(DrsfError):
    """No face in the whole input."""

    exit_code = 6


class AuditError(DrsfError):
    """The written file failed its audit."""

    exit_code = 7


class FidelityError(DrsfError):
    """The recovered attributes are worse than `max_error` allows."""

    exit_code = 8


class DeviceError(DrsfError):
    """The device that was asked for cannot be used."""

    exit_code = 9


class BatchError(DrsfError):
    """Some files of a batch failed."""

    exit_code = 10
