"""Hashes of what a handful of tiny runs write: equal before and after a change that is to leave behaviour as it is.

    python -m tests.benchmarks.pinned > before.txt      # at the commit before
    python -m tests.benchmarks.pinned | diff before.txt -

One thread, three frames of the demo clip. Of a report everything is hashed but times, memory, versions and paths. The
hashes hold for one machine: other processors sum in another order.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from drsf_cli import DeidSettings, Models, deidentify, infer, make_demo_clip, write_observations

RUNS: dict[str, dict[str, Any]] = {
    "obscured, H.264": {"attack": "none"},
    "fast, FFV1, blur": {"effort": "fast", "codec": "ffv1", "mask": "blur_20"},
    "normal, H.264": {},
    "best, H.264": {"effort": "best"},
    "mi-fgsm, H.264 RGB, grey": {"attack": "mi-fgsm", "codec": "h264-rgb", "mask": "solid"},
}
VOLATILE = ("cost", "versions", "drsf")


def short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_demo_clip(folder / "driver.mp4", seconds=0.12, size=(320, 240))
        models = Models.load(DeidSettings().victims, "cpu", threads=1)
        reading = folder / "driver.json"
        write_observations(reading, infer(clip, models))
        print(f"{'clip':26} {short(clip.read_bytes())}  read {short(reading.read_bytes())}")
        for title, given in RUNS.items():
            settings = DeidSettings(device="cpu", threads=1, repel=("none",), **given)
            output = folder / f"out{'.mp4' if settings.codec == 'h264' else '.mkv'}"
            report: dict[str, Any] = dict(deidentify(clip, output, settings, models=models))
            for place in ("input", "output"):
                report[place] = {key: value for key, value in report[place].items() if key != "path"}
            kept = {key: value for key, value in report.items() if key not in VOLATILE}
            text = json.dumps(kept, sort_keys=True).encode()
            print(f"{title:26} {short(output.read_bytes())}  report {short(text)}", flush=True)
            for file in folder.glob("out*"):
                file.unlink()


if __name__ == "__main__":
    main()
