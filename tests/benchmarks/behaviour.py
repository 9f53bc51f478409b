"""Blinks and glances of a clip whose truth is known, before and after `drsf deid`.

    python -m tests.benchmarks.behaviour [--chain "-a fan"] [--zones NAME|FILE] [--clip FILE [--end S]] [--seconds S]
                                         [--keep FOLDER] [--reading-only | --codec-alone | deid's own flags]

Reads the clip of tests/behaviour_clip.py (20 s with 12 blinks and 8 glances) with the chain, prints how its signals
agree with what the person does, de-identifies it, reads that, and prints the same and the table *Behaviour* of
`drsf eval`. `--seconds` takes only its first seconds. `--chain` goes to `infer` and to `deid`, all other flags to
`deid` alone. With `--clip` another film is taken, whose truth is not known: only the table is printed, for the part of
the film before second `--end`. `--keep` writes into a folder; what is there is not made again. With
`--codec-alone` nothing is hidden: the film is only coded as `deid` codes its output, which bounds what can come back.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from pathlib import Path

from drsf_cli import read_observations, signals
from drsf_cli.app import main as drsf
from drsf_cli.commands.output import out
from drsf_cli.commands.tables import behaviour as table_of
from drsf_cli.measure.evaluation import evaluate_files
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import open_writer
from tests.behaviour_clip import TWENTY_SECONDS, Behaviour, against_truth, make_behaviour_clip


def run(output: Path, *arguments: str) -> Path:
    """`drsf` with these arguments, where `output` is not there yet."""
    if not output.exists():
        began = time.monotonic()
        code = drsf([*arguments, "-o", str(output), "--quiet"])
        if code:
            raise SystemExit(code)
        print(f"drsf {' '.join(arguments)}: {time.monotonic() - began:.0f} s", flush=True)
    return output


def show(name: str, reading: Path, truth: Behaviour, zones: str | None) -> None:
    table = signals(read_observations(reading), zones)
    print(f"{name}: {len(table.blinks)} blinks, {len(table.glances)} glances;", end=" ")
    figures = against_truth(table, truth)
    print(", ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)


def code(clip: Path, output: Path, end: float | None) -> Path:
    """The frames of a film, coded as `deid` codes its output."""
    reader = VideoReader(clip, end=end)
    with open_writer(output, reader.info, overwrite=True) as writer:
        for frame in reader:
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks, [])
        writer.finish()
        writer.publish()
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", default="", help="-d, -a, -z and --camera, in one text")
    parser.add_argument("--zones")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--seconds", type=float, default=TWENTY_SECONDS.seconds)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--end", default="", help="of --clip, s")
    parser.add_argument("--reading-only", action="store_true")
    parser.add_argument("--codec-alone", action="store_true")
    options, flags = parser.parse_known_args()
    chain = shlex.split(options.chain)
    truth = TWENTY_SECONDS.until(options.seconds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        clip = options.clip or folder / "clip.mp4"
        if not clip.exists():
            make_behaviour_clip(clip, truth)
        part = ["--end", options.end] if options.end else []
        original = run(folder / "original.json", "infer", str(clip), *chain, *part)
        if options.clip is None:
            show("original", original, truth, options.zones)
        if options.reading_only:
            return
        if options.codec_alone:
            output = code(clip, folder / "deid.mp4", float(options.end) if options.end else None)
        else:
            output = run(folder / "deid.mp4", "deid", str(clip), *chain, *part, *flags)
        recovered = run(folder / "deid.json", "infer", str(output), *chain)
        if options.clip is None:
            show("de-identified", recovered, truth, options.zones)
        found = evaluate_files(original, recovered, zones=options.zones).behaviour
        if found is not None:
            out.print(table_of(found))


if __name__ == "__main__":
    main()
