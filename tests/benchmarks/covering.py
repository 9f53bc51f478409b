"""How well heads stay covered when the detector misses faces, on real clips.

    python -m tests.benchmarks.covering [--retinaface FILE] [--every K] [CLIP...]

Takes the faces that MTCNN reports on every frame as the truth, removes some of what covering gets to see (30 % at
random; gaps of up to one second in which nothing at all is detected; both), and measures for every true face how much
of its head region the planned regions cover, and how much of the frame they cover. `--retinaface` adds RetinaFace to
the detectors that cover, from the weight file given; its sightings are removed like MTCNN's. `--every` takes every K-th
frame of a clip, as if it had been filmed so slowly.

Two kinds of faces are counted apart, with their worst coverage left out, as nothing could know of them: those of which
fewer than three sightings within a second are in the untouched clip (a passer-by's single frame, a false alarm), and
those of which no sighting within a second is left. The detections are cached in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from attacks.obscure import Pixelate, head_region, plan_regions, region_mask
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import runs, with_last
from drsf_cli.readers.around import Around
from drsf_cli.readers.watch import Watch
from drsf_cli.settings import DeidSettings
from export.session import authorised
from tests.benchmarks.main_job import SHARED
from victims.face import Array, Detections
from victims.mtcnn import load_mtcnn
from victims.retinaface import load_retinaface
from victims.track import CERTAIN_SCORE, cover_boxes, is_sustained, link

CLIPS = ("talking_720p.mp4", "street_1080p_audio.mp4")
SEEDS = 3
AROUND = Around(DeidSettings.min_face)


def detections_of(
    clip: Path, retinaface: Path | None = None, every: int = 1
) -> tuple[list[Detections], list[Detections], Array, tuple[int, int]]:
    """What MTCNN reports on every frame, what covering sees there; times, s; height and width."""
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()[:16]
    names = "mtcnn" if retinaface is None else "mtcnn+retinaface"
    cache = Path(tempfile.gettempdir()) / "drsf-benchmarks" / f"{clip.stem}-{digest}-{names}-close-{every}.npz"
    if not cache.is_file():
        _detect(clip, cache, retinaface, every)
    stored = np.load(cache)
    both = []
    for kind in ("read", "cover"):
        frames, boxes, scores = (stored[f"{kind}_{part}"] for part in ("frames", "boxes", "scores"))
        turns = stored[f"{kind}_turns"]
        both.append(
            [
                Detections(boxes[frames == k], scores[frames == k], turns[frames == k])
                for k in range(len(stored["times"]))
            ]
        )
    return both[0], both[1], stored["times"], (int(stored["size"][0]), int(stored["size"][1]))


def _detect(clip: Path, cache: Path, retinaface: Path | None, every: int) -> None:
    own = authorised(load_mtcnn("mtcnn"), "cpu")
    others = [] if retinaface is None else [load_retinaface("retinaface", retinaface)]
    companions = [authorised(one, "cpu") for one in others]
    found: dict[str, list[Detections]] = {"read": [], "cover": []}
    times, reader = [], VideoReader(clip)
    size = reader.info.height, reader.info.width
    watch = Watch(own, companions, AROUND, always=False)
    for frames, last in with_last(runs(islice(reader, 0, None, every), 8)):
        for frame, seen in zip(frames, watch.see(frames, last), strict=True):
            times.append(frame.pts)
            found["read"].append(seen.reported)
            found["cover"].append(seen.covering)
        print(f"{clip.name}: frame {len(times)}", file=sys.stderr)
    cache.parent.mkdir(parents=True, exist_ok=True)
    store(cache, found, times, size)


def store(cache: Path, found: dict[str, list[Detections]], times: list[float], size: tuple[int, int]) -> None:
    arrays = {"times": np.array(times), "size": np.array(size)}
    for kind, seen in found.items():
        arrays[f"{kind}_frames"] = np.concatenate([np.full(len(one), k) for k, one in enumerate(seen)])
        arrays[f"{kind}_boxes"] = np.concatenate([one.boxes for one in seen]).reshape(-1, 4)
        arrays[f"{kind}_scores"] = np.concatenate([one.scores for one in seen])
        arrays[f"{kind}_turns"] = np.concatenate([one.head_turns for one in seen])
    np.savez(cache, **arrays)


def without(seen: list[Detections], keep: Callable[[int, int], bool]) -> list[Detections]:
    """The detections `keep(frame, number)` says yes to."""
    out = []
    for frame, one in enumerate(seen):
        chosen = [k for k in range(len(one)) if keep(frame, k)]
        out.append(Detections(one.boxes[chosen], one.scores[chosen], one.head_turns[chosen]))
    return out


def faults(seen: list[Detections], times: Array, seed: int) -> dict[str, list[Detections]]:
    """What the tracker gets to see: all; 30 % fewer; gaps of 0.2 to 1 s, half of the time; both."""
    rng = np.random.default_rng(seed)
    drop = [rng.random(len(one)) < 0.3 for one in seen]
    dark = np.zeros(len(times), dtype=bool)
    at = 0.0
    while at < times[-1]:
        length = rng.uniform(0.2, 1.0)
        dark |= (times >= at) & (times < at + length)
        at += length + rng.uniform(0.2, 1.0)
    return {
        "nothing removed": seen,
        "30 % removed": without(seen, lambda f, k: not drop[f][k]),
        "gaps <= 1 s": without(seen, lambda f, _: not dark[f]),
        "gaps and 30 %": without(seen, lambda f, k: not dark[f] and not drop[f][k]),
    }


def measure(clip: Path, retinaface: Path | None, every: int) -> bool:
    read, seen, times, (height, width) = detections_of(clip, retinaface, every)
    truth = [(k, box) for k, one in enumerate(read) for box in one.boxes]
    steady = [track for track in link(seen, times, confirm_score=0.0) if is_sustained(track, times, CERTAIN_SCORE)]
    print(f"\n{clip.name}: {len(times)} frames, {len(truth)} faces read, {width}x{height}")
    print(f"{'removed':18}{'faces':>8}{'worst share':>13}{'< 99 %':>8}{'unknowable':>12}", end="")
    print(f"{'regions':>10}{'frame covered':>15}")
    results: dict[str, list[tuple[list[float], int, float, float]]] = {}
    for seed in range(SEEDS):
        for name, given in faults(seen, times, seed).items():
            if name == "nothing removed" and seed:
                continue
            planned = plan_regions(cover_boxes(link(given, times), times), Pixelate(5), height, width)
            masks = [region_mask(regions, height, width) for regions in planned]
            left = {(frame, tuple(box)) for frame, one in enumerate(given) for box in one.boxes}
            shares, unknowable = [], 0
            for frame, box in truth:
                x1, y1, x2, y2 = head_region(box).round().astype(int)
                head = masks[frame][max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
                share = float(head.mean()) if head.size else 1.0
                known = any(
                    overlaps(track.boxes.get(frame), box)
                    and any(
                        abs(times[k] - times[frame]) <= 1.0 and (k, tuple(other)) in left
                        for k, other in track.boxes.items()
                    )
                    for track in steady
                )
                if known or share >= 0.99:
                    shares.append(share)
                    if share < 0.99:
                        print(f"  seed {seed}, {name}: frame {frame}, box {box.round().astype(int)}: {share:.3f}")
                else:
                    unknowable += 1
            count = float(np.mean([len(regions) for regions in planned]))
            area = float(np.mean([mask.mean() for mask in masks]))
            results.setdefault(name, []).append((shares, unknowable, count, area))
    good = True
    for name, rows in results.items():
        shares = [share for row in rows for share in row[0]]
        short = sum(share < 0.99 for share in shares)
        good &= short == 0
        print(
            f"{name:18}{len(shares):8}{min(shares):13.3f}{short:8}{sum(row[1] for row in rows):12}"
            f"{np.mean([row[2] for row in rows]):10.1f}{np.mean([row[3] for row in rows]):15.3f}"
        )
    return good


def overlaps(seen: Array | None, box: Array) -> bool:
    """Whether a track's sighting is this face: an intersection over union of at least a half."""
    if seen is None:
        return False
    low, high = np.maximum(seen[:2], box[:2]), np.minimum(seen[2:], box[2:])
    both = np.prod(np.maximum(high - low, 0.0))
    return bool(both >= 0.5 * (np.prod(seen[2:] - seen[:2]) + np.prod(box[2:] - box[:2]) - both))


def main() -> int:
    parser = argparse.ArgumentParser(description="coverage with detections removed", allow_abbrev=False)
    parser.add_argument("--retinaface", type=Path, help="weights of a second detector that covers")
    parser.add_argument("--every", type=int, default=1, metavar="K")
    parser.add_argument("clips", nargs="*", type=Path)
    arguments = parser.parse_args()
    clips = arguments.clips or [SHARED / "data" / name for name in CLIPS]
    results = [measure(clip, arguments.retinaface, arguments.every) for clip in clips]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
