"""Step rules side by side, and the plain recipe that others use, on the same frames and victims.

    python -m tests.benchmarks.methods [CLIP] [--start S] [--end S] [--methods a,b,...]
                                       [--effort normal|best] [--plain N]

Each method runs `drsf deid` on a part of the clip, H.264 at CRF 23, with its defaults but for --effort. The plain
recipe, on N frames, is the original implementation's (docs/measurements/earlier-engine.md): the torch optimiser RMSprop
at a learning rate of 0.004 on the whole frame's pixels, 150 steps from nothing, no early stop, raw losses added, no
codec in the loop, the last iterate.
Prints a Markdown table with victim passes and CPU seconds a frame.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from attacks.codec import DeliveryCodec
from attacks.obscure import obscure
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.measure.evaluation import Evaluation, evaluate
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import encoder_settings
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests.benchmarks.main_job import SHARED
from victims.base import FaceTargets, Window
from victims.camera import Camera

PLAIN_STEPS, PLAIN_RATE, PLAIN_EPS = 150, 0.004, 24 / 255


def line(name: str, frames: int, missed: int, errors: list[float], passes: float, seconds: float) -> str:
    iou, nme, gaze = errors or [float("nan")] * 3
    return f"| {name} | {frames} | {missed} | {iou:.3f} | {nme:.2f} | {gaze:.2f} | {passes:.1f} | {seconds:.2f} |"


def means(result: Evaluation) -> list[float]:
    keys = ("iou", "nme", "gaze_deg")
    return [result.summaries[key].mean for key in keys] if "iou" in result.summaries else []


def plain(clip: Path, start: float, end: float, models: Models, limit: int) -> str:
    """The plain recipe's row."""
    settings = DeidSettings(start=start, end=end)
    reader = VideoReader(clip, start, end)
    survey = survey_video(reader, models.reader(), "largest", 2)
    regions = plan_cover(survey, reader, settings)
    chain, (height, width) = models.reader("torch"), (reader.info.height, reader.info.width)
    assert chain.aligner is not None
    assert chain.gaze is not None
    codec = DeliveryCodec(encoder_settings(reader.info, "h264", 23))
    whole = Window(0, 0, width, height)
    written, wanted, passes, began = [], [], 0, time.process_time()
    for frame in reader:
        face = survey.observations[frame.index].own
        if face is None or face.landmarks is None or face.gaze is None or len(written) == limit:
            continue
        covered = obscure(frame.image, regions[frame.index], settings.obscuring)
        boxes, points = face.box[None], face.landmarks[None]
        objectives = (
            chain.detector.objective([covered], [whole], boxes),
            chain.aligner.objective([covered], [whole], FaceTargets(boxes, points)),
            chain.gaze.objective([covered], [whole], points, face.gaze[None], Camera.default(width, height)),
        )
        base = torch.from_numpy(covered).permute(2, 0, 1)[None].float() / 255.0
        mask = torch.zeros(1, 1, height, width)
        for region in regions[frame.index]:
            x1, y1, x2, y2 = region.rect
            mask[..., y1:y2, x1:x2] = 1.0
        delta = torch.zeros_like(base, requires_grad=True)
        optimiser = torch.optim.RMSprop([delta], lr=PLAIN_RATE)
        for _ in range(PLAIN_STEPS):
            optimiser.zero_grad()
            pixels = (base + delta * mask).clamp(0, 1)
            sum(objective.read(pixels, [0]).loss.sum() for objective in objectives).backward()  # type: ignore[union-attr]
            optimiser.step()
            with torch.no_grad():
                delta.clamp_(-PLAIN_EPS, PLAIN_EPS)
            passes += len(objectives)
        done = ((base + delta.detach() * mask).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).to(torch.uint8).numpy()
        written.append(Frame(frame.index, frame.pts, frame.pts_ticks, done))
        wanted.append(survey.observations[frame.index])
    seconds = (time.process_time() - began) / len(written)
    decoded = codec.roundtrip(np.stack([frame.image for frame in written]))
    frames = [Frame(f.index, f.pts, f.pts_ticks, image) for f, image in zip(written, decoded, strict=True)]
    result = evaluate(wanted, models.reader().observe(frames))
    return line("plain recipe", len(written), len(result.missed), means(result), passes / len(written), seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", nargs="?", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--start", type=float, default=4.0)
    parser.add_argument("--end", type=float, default=4.6)
    parser.add_argument("--methods", default="sgd,mi-fgsm,i-fgsm,adam,rmsprop,apgd,tanh-adam")
    parser.add_argument("--effort", choices=("normal", "best"), default="normal")
    parser.add_argument("--plain", type=int, default=2, help="frames for the plain recipe; 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = Models.load(DeidSettings().victims)
    print("| method | frames | missed | IoU | NME, % | gaze, ° | passes a frame | CPU s a frame |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.methods.split(","):
            settings = DeidSettings(
                attack=method,
                effort=arguments.effort,
                start=arguments.start,
                end=arguments.end,
                overwrite=True,
            )
            began = time.process_time()
            report = deidentify(arguments.clip, Path(folder) / "out.mp4", settings, models=models)
            found, frames = report["fidelity"]["recovered"], report["input"]["frames"]
            errors = [found[key]["mean"] for key in ("iou", "nme", "gaze_deg")]
            seconds = (time.process_time() - began) / frames
            passes = report["cost"]["victim_passes_per_frame"]
            print(line(method, frames, found["missed"], errors, passes, seconds), flush=True)
    if arguments.plain:
        print(plain(arguments.clip, arguments.start, arguments.end, models, arguments.plain), flush=True)


if __name__ == "__main__":
    main()
