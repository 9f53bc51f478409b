"""What is still read after a delivered file is transcoded, for each effort.

    python -m tests.benchmarks.transcode [CLIP] [--start S] [--end S] [--only original|fast|normal|best]
                                         [--folder DIR] [deid's own flags]

Runs `drsf deid CLIP` with each effort and transcodes each output: H.264 at CRF 18, 23 and 28 and at half its bit rate,
scaled to 0.75, and as MJPEG. Prints a Markdown table of what the authorised chain reads, against the original. The same
is done to the untouched clip, lossless to begin with: what each transcoding costs by itself. Outputs that are in DIR
already are used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from drsf_cli.measure.evaluation import Evaluation, evaluate
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import encoder_settings, open_writer
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.settings import VictimNames
from tests.benchmarks.main_job import ROOT, SHARED
from victims.face import FrameObservation

COPIES: Mapping[str, tuple[str, float, dict[str, str], float]] = {
    "CRF 18": ("libx264", 1.0, {"crf": "18"}, 0.0),
    "CRF 23": ("libx264", 1.0, {"crf": "23"}, 0.0),
    "CRF 28": ("libx264", 1.0, {"crf": "28"}, 0.0),
    "half the bit rate": ("libx264", 1.0, {}, 0.5),
    "scaled to 0.75, CRF 23": ("libx264", 0.75, {"crf": "23"}, 0.0),
    "MJPEG, q 3": ("mjpeg", 1.0, {"flags": "+qscale", "global_quality": str(3 * 118)}, 0.0),
}
"""Name -> encoder, scale, its options, share of the source's bit rate."""

RUNS: Mapping[str, tuple[str, ...]] = {"original": ()} | {
    name: ("--effort", name) for name in ("fast", "normal", "best")
}


def transcode(source: Path, target: Path, encoder: str, scale: float, options: dict[str, str], share: float) -> None:
    """A copy of the pictures of `source`, as FFmpeg would make it."""
    with av.open(str(source)) as given, av.open(str(target), "w") as copy:
        stream = given.streams.video[0]
        out = copy.add_stream(encoder, rate=stream.average_rate or Fraction(25), options=options)
        out.width, out.height = (round(side * scale / 2) * 2 for side in (stream.width, stream.height))
        out.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        if share:
            seconds = float(given.duration or 0) / 1e6
            out.bit_rate = int(share * source.stat().st_size * 8 / seconds)
        for frame in given.decode(stream):
            scaled = frame.reformat(width=out.width, height=out.height, format=out.pix_fmt)
            copy.mux(out.encode(scaled))
        copy.mux(out.encode(None))


def rescaled(observation: FrameObservation, factor: float) -> FrameObservation:
    """The observation in px of a frame larger by `factor`."""
    faces = tuple(
        replace(face, box=face.box * factor, landmarks=None if face.landmarks is None else face.landmarks * factor)
        for face in observation.faces
    )
    return replace(observation, faces=faces)


def row(name: str, result: Evaluation) -> str:
    means = [result.summaries[key].mean for key in ("iou", "nme", "gaze_deg") if key in result.summaries]
    figures = [f"{mean:.{digits}f}" for mean, digits in zip(means, (3, 2, 2), strict=False)] or ["", "", ""]
    return f"| {name} | {len(result.missed)} | {' | '.join(figures)} |"


def untouched(clip: Path, target: Path, start: float, end: float) -> None:
    """The part of the clip as a lossless file."""
    reader = VideoReader(clip, start, end)
    with open_writer(target, reader.info, encoder_settings(reader.info, "ffv1"), overwrite=True) as writer:
        for frame in reader:
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
        writer.finish()
        writer.publish()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", nargs="?", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--start", type=float, default=4.0)
    parser.add_argument("--end", type=float, default=5.2)
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=RUNS)
    parser.add_argument("--folder", type=Path, help="where outputs are kept")
    arguments, flags = parser.parse_known_args()
    models = Models.load(VictimNames())
    part = VideoReader(arguments.clip, arguments.start, arguments.end)
    original = infer(VideoReader(arguments.clip, arguments.start, arguments.end), models)
    print("| read from | missed | IoU | NME, % | gaze, ° |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for title in arguments.only:
            output = folder / f"{title}{'.mkv' if title == 'original' else '.mp4'}"
            if output.exists():
                pass
            elif title == "original":
                untouched(arguments.clip, output, arguments.start, arguments.end)
            else:
                command = [sys.executable, "-c", "from drsf_cli.app import main; raise SystemExit(main())", "deid"]
                command += [str(arguments.clip), "-o", str(output), "--quiet", *flags, *RUNS[title]]
                command += ["--start", str(arguments.start), "--end", str(arguments.end)]
                subprocess.run(command, check=True, cwd=ROOT)
            print(row(f"{title}: the file itself", evaluate(original, infer(output, models))), flush=True)
            for name, (encoder, scale, options, share) in COPIES.items():
                if share and title == "original":  # what is lossless has no bit rate to be halved
                    continue
                copy = Path(temporary) / f"copy.{'avi' if encoder == 'mjpeg' else 'mp4'}"
                transcode(output, copy, encoder, scale, options, share)
                seen = [rescaled(one, part.info.width / VideoReader(copy).info.width) for one in infer(copy, models)]
                print(row(f"{title}: {name}", evaluate(original, seen)), flush=True)


if __name__ == "__main__":
    main()
