"""What an unmodified MediaPipe reads of a written file.

    python -m tests.benchmarks.mediapipe_client [CLIP] [--end S] [--effort NAME ...] [--python FILE] [--folder DIR]
                                                [deid's own flags]

Runs `drsf deid CLIP --chain mediapipe` with each effort, once more with `--attack none`, and encodes the untouched clip
at CRF 23 (what the codec costs by itself). Then MediaPipe's own FaceMesh with refined landmarks, in an environment of
its own, reads all of them as researchers do (tests/victims/mediapipe_video.py), and a Markdown table says how its
answers agree with those that it gives of the original, in static and in video mode. CLIP is the shared talking clip,
or `demo`. Outputs that are in DIR already are used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import open_writer
from tests.benchmarks.main_job import ROOT, SHARED
from tests.victims.mediapipe_unmodified import ClientFigures, client_python, closures, compare, openness, read_video
from victims.face import Array

MODES = ("static", "video")


def deid(clip: Path, output: Path, end: float, flags: Sequence[str]) -> Path:
    """`drsf deid` with these flags, where `output` is not there yet."""
    if not output.exists():
        command = [sys.executable, "-m", "drsf_cli", "deid", str(clip), "-o", str(output), "--chain", "mediapipe"]
        subprocess.run([*command, "--quiet", "--end", str(end), *flags], check=True, cwd=ROOT)
    return output


def copied(clip: Path, output: Path, end: float) -> Path:
    """The untouched clip, coded anew."""
    if not output.exists():
        reader = VideoReader(clip, None, end)
        with open_writer(output, reader.info, overwrite=True) as writer:
            for frame in reader:
                writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
            writer.finish()
            writer.publish()
    return output


def row(name: str, mode: str, figures: ClientFigures) -> str:
    start = f"| {name} | {mode} | {figures.found} of {figures.found_before} "
    if not len(figures.nme):
        return start + "| | | | | |"
    nme, irises = figures.nme, figures.irises
    return (
        start + f"| {nme.mean():.2f} ({np.percentile(nme, 95):.2f}) | {irises.mean():.2f} "
        f"({np.percentile(irises, 95):.2f}) | {figures.eyes:.3f} ({figures.eyes_off:.3f}) | {figures.mouth:.3f} "
        f"({figures.mouth_off:.3f}) |"
    )


def shut(meshes: Array, rate: float) -> str:
    return ", ".join(f"{start}-{end}" for start, end in closures(openness(meshes)[0], rate)) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", default=str(SHARED / "data" / "talking_720p.mp4"))
    parser.add_argument("--end", type=float, default=4.0)
    parser.add_argument("--effort", nargs="*", default=["normal"])
    parser.add_argument("--python", type=Path, help="Python that has mediapipe 0.10.21; default: one is made in DIR")
    parser.add_argument("--folder", type=Path, help="where outputs are kept")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        python = options.python or client_python(folder / "client")
        clip = Path(options.clip)
        if options.clip == "demo":
            clip = folder / "demo.mp4"
            if not clip.exists():
                make_demo_clip(clip)
        with av.open(str(clip)) as given:
            rate = float(given.streams.video[0].average_rate or 25)

        def read(file: Path) -> dict[str, Array]:
            return read_video(python, file, Path(temporary) / "answers.npz", options.end)

        original = read(clip)
        count = len(original["static"])
        print(f"{count} frames. Mean (95th percentile); correlation (mean absolute difference).\n")
        print("| read from | mode | frames with a face | mesh NME, % | irises, px | EAR | MAR |")
        print("|---|---|---|---|---|---|---|")
        shuts = {("original", mode): shut(original[mode], rate) for mode in MODES}
        end = (count - 0.5) / rate
        outputs = {"original, CRF 23": copied(clip, folder / f"{clip.stem}_copy.mp4", end)}
        outputs["obscured only"] = deid(clip, folder / f"{clip.stem}_none.mp4", end, ["--attack", "none", *flags])
        for name in options.effort:
            outputs[name] = deid(clip, folder / f"{clip.stem}_{name}.mp4", end, ["--effort", name, *flags])
        for name, file in outputs.items():
            other = read(file)
            if len(other["static"]) != count:
                raise SystemExit(f"{file} has {len(other['static'])} frames where the original has {count}")
            for mode in MODES:
                print(row(name, mode, compare(original[mode], other[mode])), flush=True)
                shuts[name, mode] = shut(other[mode], rate)
        print("\nFrames with shut eyes:\n")
        for (name, mode), text in shuts.items():
            print(f"- {name}, {mode}: {text}")


if __name__ == "__main__":
    main()
