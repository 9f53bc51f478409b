"""The devices that networks run on, with the names of the command line."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
