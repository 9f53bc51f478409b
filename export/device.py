"""What networks run on, as it is named on the command line."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
