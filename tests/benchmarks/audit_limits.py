"""What the audit's measures are for hidden and for open heads; its limits lie in between.

    python -m tests.benchmarks.audit_limits [--every N]

Heads of the shared clips, every Nth frame (60), hidden in several ways and seen through JPEG. Covering
sees every tenth frame of a clip, as if it had been filmed so slowly.

* to pass: alone; with the strongest noise eps 24/255 allows; with another person's face drawn in at 24 grey levels;
* to be found: left open, compressed hard or softened; open in a square of a sixth, a quarter or the left quarter of the
  region; hidden by finer blocks than was asked for; and undone as far as 24 grey levels go.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import av
import cv2
import numpy as np
from skimage.data import astronaut

from attacks.obscure import (
    Obscuring,
    Pixelate,
    Region,
    head_region,
    obscure,
    parse_obscuring,
    plan_regions,
    region_mask,
)
from drsf_cli.deid.checks import OPEN_SHARE, RETURNED_LIMIT
from drsf_cli.measure.hidden import compare_region, returned_share
from tests.benchmarks.covering import CLIPS, detections_of
from tests.benchmarks.main_job import SHARED
from victims.base import Image
from victims.face import Array
from victims.track import cover_boxes, link

PORTRAIT = (170, 60, 290, 200)
"""The face of scikit-image's portrait, x1, y1, x2, y2 px."""
WATCHED = 10
"""Every so many frames of a clip are seen for covering."""


def jpeg(image: Image, quality: int) -> Image:
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]).astype(np.uint8)


def added(hidden: Image, change: Array, eps: int = 24) -> Image:
    return np.clip(hidden + np.clip(np.rint(change), -eps, eps), 0, 255).astype(np.uint8)


def another_face(boxes: Array, height: int, width: int) -> Array:
    """(height, width, 3): the detail of a face of the portrait in scikit-image, over every one of `boxes`."""
    portrait = np.asarray(astronaut(), dtype=np.float32)
    own = np.array(PORTRAIT, dtype=np.float64)
    out = np.zeros((height, width, 3), np.float32)
    for box in boxes:
        scale = (box[2:] - box[:2]) / (own[2:] - own[:2])
        warp = np.array([[scale[0], 0, box[0] - scale[0] * own[0]], [0, scale[1], box[1] - scale[1] * own[1]]])
        drawn = cv2.warpAffine(portrait, warp, (width, height), borderMode=cv2.BORDER_REFLECT)
        drawn = drawn - cv2.GaussianBlur(drawn, (0, 0), max(1.0, float(box[2] - box[0]) / 4))
        x1, y1, x2, y2 = head_region(box).round().astype(int).clip(0)
        out[y1:y2, x1:x2] = drawn[y1:y2, x1:x2]
    return out


def opened(hidden: Image, image: Image, part: tuple[float, float, float, float], region: Region) -> Image:
    """`part` x1, y1, x2, y2 (shares of the region) as it was."""
    x1, y1, x2, y2 = region.rect
    xs = slice(*(round(x1 + share * (x2 - x1)) for share in part[::2]))
    ys = slice(*(round(y1 + share * (y2 - y1)) for share in part[1::2]))
    out = hidden.copy()
    out[ys, xs] = image[ys, xs]
    return out


SPOTS = {
    "middle, 1/6 across": (5 / 12, 5 / 12, 7 / 12, 7 / 12),
    "middle, 1/4 across": (3 / 8, 3 / 8, 5 / 8, 5 / 8),
    "left quarter": (0.0, 0.0, 0.25, 1.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="the audit's measures", allow_abbrev=False)
    parser.add_argument("--every", type=int, default=60, help="a multiple of ten")
    every = parser.parse_args().every
    rows: dict[str, list[tuple[float, float]]] = {}
    generator = np.random.default_rng(0)
    for name in CLIPS:
        clip = SHARED / "data" / name
        _, seen, times, (height, width) = detections_of(clip, every=WATCHED)
        covers = cover_boxes(link(seen, times), times)
        with av.open(str(clip)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every != every - WATCHED:
                    continue
                index = number // WATCHED
                image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                noise = cv2.GaussianBlur(generator.normal(0, 1, image.shape), (0, 0), 2.0)
                face = another_face(seen[index].boxes, height, width)
                for spec in ("pixelate_5", "pixelate_8", "blur_14", "blur_20", "solid"):
                    obscuring = parse_obscuring(spec)
                    regions = plan_regions(covers, obscuring, height, width)[index]
                    hidden = obscure(image, regions, obscuring)
                    inside = region_mask(regions, height, width)[..., None]
                    undone = added(hidden, image.astype(np.float32) - hidden)
                    fine = [Region(r.rect, max(2, r.cell // 3), r.origin) for r in regions]
                    variants = {
                        "pass: hidden": hidden,
                        "pass: hidden, JPEG 50": jpeg(hidden, 50),
                        "pass: noise, JPEG 75": jpeg(added(hidden, inside * 24 * noise / noise.std()), 75),
                        "pass: another face, JPEG 75": jpeg(added(hidden, inside * face), 75),
                        "find: undone by 24, JPEG 90": jpeg(undone, 90),
                        "find: open, JPEG 30": jpeg(image, 30),
                        "find: open, soft": np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8),
                    }
                    if isinstance(obscuring, Pixelate):
                        variants["find: blocks of a third"] = obscure(image, fine, obscuring)
                    for region in regions:
                        for title, part in SPOTS.items():
                            written = jpeg(opened(hidden, image, part, region), 50)
                            _measure(rows, f"find: {title}", image, hidden, written, region, obscuring, regions)
                        for variant, written in variants.items():
                            _measure(rows, variant, image, hidden, written, region, obscuring, regions)
    print(
        f"{'':30}{'regions':>8}{'returned: min':>15}{'5 %':>7}{'95 %':>7}{'max':>7}{'open tiles: max':>17}{'found':>8}"
    )
    for variant, values in sorted(rows.items(), reverse=True):
        returned, share = (np.array(column) for column in zip(*values, strict=True))
        found = float(((returned > RETURNED_LIMIT) | (share > OPEN_SHARE)).mean())
        low, high = np.percentile(returned, (5, 95))
        print(
            f"{variant:30}{len(values):8}{returned.min():15.3f}{low:7.3f}{high:7.3f}{returned.max():7.3f}"
            f"{share.max():17.3f}{found:8.3f}"
        )
    return 0


def _measure(
    rows: dict[str, list[tuple[float, float]]],
    name: str,
    image: Image,
    hidden: Image,
    written: Image,
    region: Region,
    obscuring: Obscuring,
    regions: Sequence[Region],
) -> None:
    returned = returned_share(image, hidden, written, region.rect)
    rows.setdefault(name, []).append((returned, compare_region(image, written, region, obscuring, regions)[2]))


if __name__ == "__main__":
    sys.exit(main())
