"""How well heads stay covered when the detector misses faces, on real clips.

    python -m tests.benchmarks.covering [CLIP...]

Takes MTCNN's detections on every frame as the truth (threshold 0.7), removes some of them before tracking (30 % at
random; gaps of up to one second in which nothing at all is detected; both), and measures for every true face how much
of its head region the planned regions cover, and how much of the frame they cover. Counted apart as unknowable are
faces that nothing could find: those read fewer than three times within a second in the untouched detections (a
passer-by's single frame, a false alarm), and those of which no sighting within a second is left. The detections are
cached in the folder for temporary files.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from attacks.obscure import Pixelate, head_region, plan_regions, region_mask
from tests.conftest import ROOT
from victims.face import Array, Detections
from victims.track import CONFIRM_SCORE, cover_boxes, is_sustained, link

CLIPS = ("talking_720p.mp4", "street_1080p_audio.mp4")
READ_THRESHOLD = 0.7
COVER_THRESHOLD = 0.4
SEEDS = 3


def detections_of(clip: Path) -> tuple[list[Detections], Array, tuple[int, int]]:
    """MTCNN at the covering threshold on every frame; times, s; height and width."""
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / "drsf-benchmarks" / f"{clip.stem}-{digest}-{COVER_THRESHOLD}.npz"
    if not cache.is_file():
        _detect(clip, cache)
    stored = np.load(cache)
    frames, boxes, scores = stored["frames"], stored["boxes"], stored["scores"]
    out = [Detections(boxes[frames == k], scores[frames == k]) for k in range(len(stored["times"]))]
    return out, stored["times"], (int(stored["size"][0]), int(stored["size"][1]))


def _detect(clip: Path, cache: Path) -> None:
    from facenet_pytorch import MTCNN

    network = MTCNN(keep_all=True, thresholds=[0.5, 0.6, COVER_THRESHOLD])
    frames, boxes, scores, times, size = [], [], [], [], (0, 0)
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            image = frame.to_ndarray(format="rgb24")
            size = image.shape[:2]
            times.append(float(frame.time or 0.0))
            found, probability = network.detect(image)
            for box, score in zip(found if found is not None else [], probability, strict=False):
                frames.append(index)
                boxes.append(box)
                scores.append(score)
            if index % 25 == 0:
                print(f"{clip.name}: frame {index}", file=sys.stderr)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        cache,
        frames=np.array(frames, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float64),
        times=np.array(times),
        size=np.array(size),
    )


def without(seen: list[Detections], keep: Callable[[int, int], bool]) -> list[Detections]:
    """The detections `keep(frame, number)` says yes to."""
    out = []
    for frame, one in enumerate(seen):
        chosen = [k for k in range(len(one)) if keep(frame, k)]
        out.append(Detections(one.boxes[chosen], one.scores[chosen]))
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


def measure(clip: Path) -> bool:
    seen, times, (height, width) = detections_of(clip)
    truth = [(k, box) for k, one in enumerate(seen) for box in one.boxes[one.scores >= READ_THRESHOLD]]
    whole = link(seen, times, confirm_score=0.0)
    steady = [track for track in whole if is_sustained(track, times, CONFIRM_SCORE)]
    owner = {(frame, tuple(box)): track for track in steady for frame, box in track.boxes.items()}
    print(f"\n{clip.name}: {len(times)} frames, {len(truth)} faces read, {width}x{height}")
    print(f"{'removed':18}{'faces':>8}{'worst share':>13}{'< 99 %':>8}{'unknowable':>12}{'frame covered':>15}")
    results: dict[str, list[tuple[list[float], int, float]]] = {}
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
                track = owner.get((frame, tuple(box)))
                known = track is not None and any(
                    abs(times[k] - times[frame]) <= 1.0 and (k, tuple(other)) in left
                    for k, other in track.boxes.items()
                )
                if known or share >= 0.99:
                    shares.append(share)
                else:
                    unknowable += 1
            results.setdefault(name, []).append((shares, unknowable, float(np.mean([mask.mean() for mask in masks]))))
    good = True
    for name, rows in results.items():
        shares = [share for row in rows for share in row[0]]
        short = sum(share < 0.99 for share in shares)
        good &= short == 0
        print(
            f"{name:18}{len(shares):8}{min(shares):13.3f}{short:8}{sum(row[1] for row in rows):12}"
            f"{np.mean([row[2] for row in rows]):15.3f}"
        )
    return good


def main() -> int:
    clips = [Path(arg) for arg in sys.argv[1:]] or [ROOT.parent / "shared" / "data" / name for name in CLIPS]
    results = [measure(clip) for clip in clips]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
