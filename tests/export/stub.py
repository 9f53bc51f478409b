"""A victim small enough to export in every test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from victims.base import ExportSpec, Victim


class Net(nn.Module):
    """Two inputs, two outputs; any height and width."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4 + 2, 2)
            nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.relu(self.norm(self.conv(pixels)))
        return self.fc(torch.cat([maps.mean(dim=(2, 3)), pose], dim=1)), maps


class Drifting(Net):
    """What it computes when traced is not what it computes afterwards, as an export with a bug would have it."""

    def forward(self, pixels: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        angles, maps = super().forward(pixels, pose)
        return angles + (0.01 if torch.jit.is_tracing() else 0.0), maps


class Stub(Victim):
    """One network, "net"."""

    role = "gaze"

    def __init__(self, net: nn.Module | None = None, name: str = "stub") -> None:
        super().__init__({"net": (net or Net()).eval()}, {"net.pt": "0" * 64})
        self.name = name

    def export_specs(self) -> dict[str, ExportSpec]:
        return {
            "net": ExportSpec(
                (torch.zeros(2, 3, 8, 12), torch.zeros(2, 2)),
                ("pixels", "pose"),
                ("angles", "maps"),
                {
                    "pixels": {0: "batch", 2: "height", 3: "width"},
                    "pose": {0: "batch"},
                    "angles": {0: "batch"},
                    "maps": {0: "batch", 2: "height", 3: "width"},
                },
                "RGB in [0, 1]",
            )
        }
