"""What strangers read: the zoo of ../shared/weights/zoo, and every other model at hand that was not authorised.

    python -m tests.benchmarks.strangers [CLIP ...] [--frames N] [--keep-out FAMILIES] [--folder DIR] [deid's own flags]
    python -m tests.benchmarks.strangers CLIP --written FILE

Each clip (by default the demo clip and talking_720p.mp4 from its fourth second on) goes through `drsf deid` with the
flags given (`-d`, `-a`, `-z`, `--effort`), N frames of it; with --written nothing is made. The file and its report say
how it was hidden. What is in DIR already is not made again.

A row for every model and measure: original, obscured only, obscured + attacked, and blind, the reader who is told the
true box and looks at no pixel (victims/blind.py). Rows are in three groups: models of the zoo and others (TRAINED) that
a drawer may have been trained against; families that were kept out of it (--keep-out, as in attacks.training.train);
and models that no drawer is trained against. The second and third are what others' models can be expected to do. At
the end stands what the mission asks of detectors: the share of frames in which each sees the driver.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from attacks.training.strangers.zoo import ZooDetector, is_of, load_zoo
from drsf_cli.deid.audit import audit
from drsf_cli.deid.known_run import read_run
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.measure.leakage_table import MODEL_HEADINGS, ModelRows, model_rows
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider, outsiders_at_hand
from drsf_cli.readers.table import FinderDetector
from tests.benchmarks.leakage import drsf
from tests.benchmarks.main_job import SHARED
from weights.errors import InputError

ZOO = SHARED / "weights" / "zoo"
TALKING = SHARED / "data" / "talking_720p.mp4"
START = {TALKING.name: 4.0}
"""s; before that nobody's face is large."""
TRAINED = frozenset({"centerface", "retinaface", "blazeface", "facemesh"})
"""Models outside the zoo that the drawer of `mtcnn` was trained against (its card)."""
GROUPS = ("trained against", "kept out", "no part in the training")
AIM = {"trained against": 0.05, "kept out": 0.25}
"""The largest share of frames in which a detector is to see the driver."""


def zoo_outsiders(folder: Path) -> dict[str, Outsider]:
    """The zoo, as models that were not authorised."""
    found = {}
    for name, victim in load_zoo(folder).items():
        if isinstance(victim, ZooDetector):
            found[name] = Outsider(name, FinderDetector(name, _finder(victim), victim.weights))
        else:
            found[name] = Outsider(name, victim)
    return found


def _finder(detector: ZooDetector) -> Any:
    return lambda image: detector.detect([image])[0]


def written(clip: Path, folder: Path, frames: int, flags: list[str]) -> Path:
    """What `drsf deid` makes of `frames` frames of `clip`."""
    output = folder / f"{clip.stem}_deid.mp4"
    if not (folder / f"{output.name}.report.json").is_file():
        start = START.get(clip.name, 0.0)
        rate = float(VideoReader(clip).info.average_rate)
        part = ["--start", f"{start:g}", "--end", f"{start + (frames - 0.5) / rate:.4f}"]
        drsf("deid", str(clip), "-o", str(output), "--overwrite", "-q", *part, *flags)
    return output


def measured(clip: Path, output: Path, zoo: Path) -> Leakage:
    """drsf_cli/measure/leakage.py's document, of the zoo and all that is at hand."""
    run = read_run(clip, output)
    if run is None:
        raise InputError(f"{output} has no report beside it; give a file that `drsf deid` wrote.")
    names = run.settings.victims
    models = Models.load(names, run.settings.device, True)
    others = zoo_outsiders(zoo) | outsiders_at_hand(models)
    return audit(clip, output, run, models, others)


def group_of(name: str, zoo: Collection[str], keep_out: Collection[str]) -> str:
    if is_of(name, keep_out):
        return GROUPS[1]
    return GROUPS[0] if name in zoo or name in TRAINED else GROUPS[2]


def table(document: Leakage, zoo: Collection[str], keep_out: Collection[str]) -> str:
    """Markdown."""
    rows = model_rows(document)
    lines = [" | ".join(("| model", "", *MODEL_HEADINGS)) + " |", "|---" * (2 + len(MODEL_HEADINGS)) + "|"]
    groups: dict[str, list[ModelRows]] = {"": [row for row in rows if row.name == "authorised chain"]}
    for group in GROUPS:
        groups[group] = [
            row for row in rows if row.name != "authorised chain" and group_of(row.name, zoo, keep_out) == group
        ]
    for group, own in groups.items():
        for row in own:
            label = ", ".join(part for part in (row.name, group, row.mark) if part)
            lines += [" | ".join((f"| {label}", measure.title, *measure.cells)) + " |" for measure in row.rows]
    return "\n".join([*lines, "", *_aims(document, zoo, keep_out)])


def _aims(document: Leakage, zoo: Collection[str], keep_out: Collection[str]) -> list[str]:
    lines = []
    for model in document["models"]:
        if model["authorised"] or model["role"] != "detector":
            continue
        group = group_of(model["name"], zoo, keep_out)
        share = model["columns"]["written"].get("detected")
        if share is None:
            lines.append(f"* {model['name']} ({group}): does not see the driver in the original")
        elif group in AIM:
            aim = f"at most {100 * AIM[group]:.0f} %: {'reached' if share <= AIM[group] else 'missed'}"
            lines.append(f"* {model['name']} ({group}): {100 * share:.0f} %; {aim}")
        else:
            lines.append(f"* {model['name']} ({group}): {100 * share:.0f} %")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=100, help="of each clip")
    parser.add_argument("--written", type=Path, help="what `drsf deid` made of the clip")
    parser.add_argument("--keep-out", default="", help="families that the drawer was not trained against, by commas")
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("--folder", type=Path, help="keep what is made here")
    arguments, flags = parser.parse_known_args()
    keep_out = arguments.keep_out.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        clips = arguments.clips
        if not clips:
            clips = [folder / "demo.mp4", TALKING]
            if not clips[0].is_file():
                make_demo_clip(clips[0], seconds=arguments.frames / 25)
        if arguments.written is not None and len(clips) != 1:
            parser.error("--written goes with one clip")
        names = set(zoo_outsiders(arguments.zoo))
        for clip in clips:
            output = arguments.written or written(clip, folder, arguments.frames, flags)
            document = measured(clip, output, arguments.zoo)
            (folder / f"{output.name}.strangers.json").write_text(json.dumps(document, indent=1) + "\n")
            print(f"\n{clip.name}, {document['frames_looked_at']} of {document['frames']} frames\n")
            print(table(document, names, keep_out), flush=True)


if __name__ == "__main__":
    main()
