"""What warm frames end in: the best of their iterates, or of these and some points near their mean.

    python -m tests.benchmarks.iterates [CLIP] [--end S] [-d NAME] [-a NAME] [-z NAME] [--repel NAME] [--threads N]
                                       [--tries N,N,...]

Runs `drsf deid CLIP` with all other defaults once for each number of points tried; with 0 of them the next frame starts
from the best iterate, too. Prints a Markdown table; the last column is the root mean square of what is added in the
face's box, in grey levels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from attacks import embed
from attacks.embed import Embedded, Embedder, Target
from attacks.perturb import AttackSettings, Outcome, perturb
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.settings import DeidSettings, VictimNames
from tests.benchmarks.main_job import SHARED


def strength(target: Target, embedded: Embedded) -> float:
    """Root mean square of the change inside the face's box, grey levels."""
    x1, y1, x2, y2 = np.round(target.face.box).astype(int)
    left, top = embedded.window.x, embedded.window.y
    part = embedded.change[max(y1 - top, 0) : y2 - top, max(x1 - left, 0) : x2 - left]
    return float(np.sqrt(np.square(part.astype(float)).mean()))


def row(tries: int, clip: Path, settings: DeidSettings) -> str:
    """One run with so many points tried."""
    strengths: list[float] = []
    run = Embedder.embed

    def measured(self: Embedder, targets: Sequence[Target]) -> list[Embedded]:
        done = run(self, targets)
        strengths.extend(strength(*pair) for pair in zip(targets, done, strict=True))
        return done

    def ended(budget: Any, start: Any, stages: Any, own: AttackSettings, *channels: Any) -> Outcome:
        correction = replace(own.correction, tries=tries if own.correction.tries else 0)
        return perturb(budget, start, stages, replace(own, correction=correction), *channels)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Embedder, "embed", measured),
        mock.patch.object(embed, "perturb", ended),
    ):
        report = deidentify(clip, Path(folder) / "out.mp4", settings)
    found = report["fidelity"]["recovered"]
    iou, nme, gaze = (found[key]["mean"] for key in ("iou", "nme", "gaze_deg"))
    cost = report["cost"]
    effort = f"{cost['victim_passes_per_frame']:.1f} | {cost['victim_checks_per_frame']:.1f}"
    errors = f"{iou:.3f} | {nme:.2f} | {gaze:.2f}"
    return f"| {tries} | {len(strengths)} | {found['missed']} | {errors} | {effort} | {np.mean(strengths):.1f} |"


def main() -> None:
    names = VictimNames()
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", nargs="?", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--end", type=float, default=4.0)
    parser.add_argument("-d", dest="detector", default=names.detector)
    parser.add_argument("-a", dest="aligner", default=names.aligner)
    parser.add_argument("-z", dest="gaze", default=names.gaze)
    parser.add_argument("--repel", default="all")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tries", default=f"0,1,{embed.TRIES}")
    own = parser.parse_args()
    settings = DeidSettings(
        VictimNames(own.detector, own.aligner, own.gaze), end=own.end, repel=(own.repel,), threads=own.threads
    )
    print("| tries | frames | missed | IoU | NME, % | gaze, ° | passes a frame | checks | strength |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for tries in own.tries.split(","):
        print(row(int(tries), own.clip, settings), flush=True)


if __name__ == "__main__":
    main()
