"""What strangers' detectors see against how well the chain reads: a point for each strength of what keeps them out.

    python -m tests.benchmarks.frontier CLIP [--frames N] [--zoo DIR] [--keep-out FAMILIES] [-o FILE.svg]

The first N frames of CLIP go through `deid` with the default chain and each of the POINTS, and all detectors at hand
look at what was written. Prints a Markdown table and, with -o, draws the points: the share of frames in which detectors
see the driver, the mean of those that were trained against, on the x-axis; the box IoU of the authorised chain on the
y-axis.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from attacks.effort import EFFORTS, FIT, Tuning
from drsf_cli import settings as settings_module
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests.benchmarks.strangers import GROUPS, ZOO, group_of, measured, zoo_outsiders


class Point(NamedTuple):
    """What is drawn."""

    name: str
    fit: Tuning | None
    """None: nothing is fitted."""


POINTS = (
    Point("fast", None),
    *(Point(f"back {back:g}", replace(FIT, back=back)) for back in (0.0, 0.5, 1.0)),
    *(Point(f"shade {shade:g}", replace(FIT, shade=shade)) for shade in (0.0, 1.0, 1.8)),
)


class Row(NamedTuple):
    """What came of a point."""

    point: Point
    iou: float
    nme: float
    gaze: float
    seen: tuple[float, ...]
    """Mean share of frames, 0..1, for each of GROUPS."""


def row(point: Point, clip: Path, frames: int, zoo: Path, keep_out: Sequence[str]) -> Row:
    """One run."""
    rate = float(VideoReader(clip).info.average_rate)
    effort = "fast" if point.fit is None else "normal"
    settings = DeidSettings(effort=effort, repel=("none",), end=(frames - 0.5) / rate)
    efforts = {**EFFORTS, "normal": replace(EFFORTS["normal"], tuning=point.fit)}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mp4"
        with mock.patch.object(settings_module, "EFFORTS", efforts):
            report = deidentify(clip, output, settings, models=Models.of(settings))
        document = measured(clip, output, zoo)
    recovered, names = report["fidelity"]["recovered"], set(zoo_outsiders(zoo))
    shares: dict[str, list[float]] = {group: [] for group in GROUPS}
    for model in document["models"]:
        share = model["columns"]["written"].get("detected")
        if model["role"] == "detector" and not model["authorised"] and share is not None:
            shares[group_of(model["name"], names, keep_out)].append(share)
    seen = tuple(float(np.mean(shares[group])) if shares[group] else float("nan") for group in GROUPS)
    return Row(point, *(recovered[key]["mean"] for key in ("iou", "nme", "gaze_deg")), seen)


def drawn(rows: Sequence[Row]) -> str:
    """An SVG."""
    width, height, left, bottom = 560, 340, 60, 290
    low = min(0.9, min(one.iou for one in rows) - 0.005)

    def place(share: float, iou: float) -> tuple[float, float]:
        return left + 470 * share, bottom - 260 * (iou - low) / (1.0 - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} 30V{bottom}H{left + 470}" fill="none" stroke="#888"/>',
        f'<text x="{left + 235}" y="{height - 12}" text-anchor="middle">frames in which they see the driver</text>',
        f'<text x="{left}" y="20">box IoU of the authorised chain</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, _ = place(share, low)
        parts.append(f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{100 * share:.0f} %</text>')
    for iou in np.arange(np.ceil(low * 50) / 50, 1.0001, 0.02):
        _, y = place(0.0, float(iou))
        parts.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{iou:.2f}</text>')
    for one in rows:
        x, y = place(one.seen[0], one.iou)
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="#0072b2"/>')
        parts.append(f'<text x="{x + 8:.0f}" y="{y + 4:.0f}">{one.point.name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("--keep-out", default="faceboxes,ultraface")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    print(" | ".join(("| drawn", "IoU", "NME, %", "gaze, degrees", *(f"seen, {group}, %" for group in GROUPS))), "|")
    print("|---" * (4 + len(GROUPS)) + "|", flush=True)
    rows = []
    for point in POINTS:
        one = row(point, arguments.clip, arguments.frames, arguments.zoo, arguments.keep_out.split(","))
        shares = (f"{100 * share:.0f}" for share in one.seen)
        print(f"| {point.name} | {one.iou:.3f} | {one.nme:.2f} | {one.gaze:.1f} | {' | '.join(shares)} |", flush=True)
        rows.append(one)
    if arguments.output is not None:
        arguments.output.write_text(drawn(rows))


if __name__ == "__main__":
    main()
