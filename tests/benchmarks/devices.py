"""Embedding on a CPU and on a GPU, and what half precision does there.

    python -m tests.benchmarks.devices [--clip FILE] [--end S] [--threads N] [--steps-only]

Embeds in the first S seconds of the clip on every device there is, on CUDA also with networks under `torch.autocast`,
and prints a Markdown table: frames a second of the embedding alone, the codec's trials included, what is read from the
file through ONNX Runtime, and the most memory in use on the GPU. Then the time of one victim pass over one frame and
over eight, and how much of a gradient's direction half precision keeps; networks whose weights are not at hand have
random ones (marked with `*`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from attacks import perturb
from attacks.embed import common_window
from drsf_cli.deid.pipeline import opened
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings, VictimNames
from tests.benchmarks.main_job import SHARED
from tests.benchmarks.onnx_vs_torch import chains
from victims.base import FaceTargets, Objective, to_pixels
from victims.camera import Camera

KINDS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Way:
    device: str
    precision: str = "float32"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Victims are read in this precision."""
        kind = KINDS[self.precision]
        if kind is None:
            yield
            return
        read = perturb._read

        def under_autocast(*arguments: Any, **named: Any) -> Any:
            with torch.autocast(self.device, dtype=kind):
                return read(*arguments, **named)

        with mock.patch.object(perturb, "_read", under_autocast):
            yield


def ways() -> list[Way]:
    gpu = [Way("cuda", precision) for precision in KINDS] if torch.cuda.is_available() else []
    return [Way("cpu"), *gpu]


def row(way: Way, clip: Path, settings: dict[str, Any]) -> str:
    # ONNX Runtime, which reads the file, finds a GPU by itself; torch is what is measured here
    device: Any = "cpu" if way.device == "cpu" else "auto"
    work = Work.on(clip, DeidSettings(device=device, **settings))
    if way.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, way.taken():
        output = Path(folder) / "out.mp4"
        with opened(work, output, output.with_suffix(".json"), Silent()) as run:
            surveyed = run.survey()
            began = time.perf_counter()
            written = run.embed(surveyed)
            seconds = time.perf_counter() - began
            found = run._verify(surveyed).frames
    memory = torch.cuda.max_memory_allocated() / 1e6 if way.device == "cuda" else float("nan")
    errors = " | ".join(f"{found.summaries[key].mean:.3f}" for key in ("iou", "nme", "gaze_deg"))
    passes = sum(one.passes for one in written.embedded.values()) / len(surveyed)
    speed = f"{len(surveyed) / seconds:.2f} | {passes:.1f}"
    return f"| {way.device} | {way.precision} | {speed} | {len(found.missed)} | {errors} | {memory:.0f} |"


def single_passes(clip: Path) -> Iterator[str]:
    """One pass of every victim in every precision."""
    frame = next(iter(VideoReader(clip, 1.0, 1.2)))
    face = Models.load(VictimNames()).reader("torch").observe([frame])[0].own
    assert face is not None
    assert face.landmarks is not None
    assert face.gaze is not None
    x1, y1, x2, y2 = np.round(face.box).astype(int)
    mask = np.zeros(frame.image.shape[:2], bool)
    mask[max(y1 - 100, 0) : y2 + 60, max(x1 - 100, 0) : x2 + 100] = True
    window = common_window([mask])
    camera = Camera.default(frame.image.shape[1], frame.image.shape[0])
    devices = sorted({way.device for way in ways()})
    seen: set[str] = set()
    for name, load in chains(SHARED, clip.name).items():
        for label, victim in zip(name.split("/"), load(), strict=False):
            if victim is None or label in seen:
                continue
            seen.add(label)
            for device in devices:
                victim.to(device)
                for count in (1, 8):
                    images, windows = [frame.image] * count, [window] * count
                    boxes, points = np.stack([face.box] * count), np.stack([face.landmarks] * count)
                    pixels = to_pixels([window.cut(image) for image in images], device)
                    if victim.role == "detector":
                        objective = victim.objective(images, windows, boxes)
                    elif victim.role == "aligner":
                        objective = victim.objective(images, windows, FaceTargets(boxes, points))
                    else:
                        gaze = np.stack([face.gaze] * count)
                        objective = victim.objective(images, windows, points, gaze, camera)
                    yield _pass(label, objective, pixels, [way for way in ways() if way.device == device])


def _pass(label: str, objective: Objective, pixels: torch.Tensor, all_ways: list[Way]) -> str:
    cells, exact = [], None
    for way in all_ways:
        kind = KINDS[way.precision]
        for warm in (True, False):
            began = time.perf_counter()
            for _ in range(2 if warm else 5):
                leaf = pixels.clone().requires_grad_()
                with torch.autocast(way.device, dtype=kind, enabled=kind is not None):
                    loss = objective.read(leaf, range(len(pixels))).loss
                (gradient,) = torch.autograd.grad(loss.float().sum(), leaf)
                if way.device == "cuda":
                    torch.cuda.synchronize()
            seconds = (time.perf_counter() - began) / 5
        exact = gradient.flatten() if exact is None else exact
        kept = float(torch.nn.functional.cosine_similarity(gradient.flatten(), exact, dim=0))
        cells.append(f"{way.precision} {1000 * seconds:.1f} ms, cosine {kept:.3f}")
    return f"{label}, {len(pixels)} frame(s) on {all_ways[0].device}: {'; '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--end", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps-only", action="store_true", help="only the single passes")
    own = parser.parse_args()
    if not own.steps_only:
        print("| device | networks in | frames/s | passes a frame | missed | IoU | NME, % | gaze, ° | GPU memory, MB |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        settings = {"end": own.end, "threads": own.threads}
        for way in ways():
            print(row(way, own.clip, settings), flush=True)
    for line in single_passes(own.clip):
        print(line, flush=True)


if __name__ == "__main__":
    main()
