"""What the audit's two numbers are for hidden and for open heads; its limits lie in between.

    python -m tests.benchmarks.audit_limits

Heads of the shared clips, every 60th frame: hidden in several ways, alone, and with the worst perturbation that eps
24/255 allows (the one that undoes as much of the obscuring as it can), then as JPEG of quality 90; and left open, after
JPEG of quality 30, after a blur of 1.5 px, and open in the middle quarter only.
"""

from __future__ import annotations

import av
import cv2
import numpy as np

from attacks.obscure import Region, obscure, parse_obscuring, plan_regions
from drsf_cli.audit import compare_region
from tests.benchmarks.covering import CLIPS, detections_of
from tests.conftest import ROOT
from victims.base import Image
from victims.track import cover_boxes, link


def jpeg(image: Image, quality: int) -> Image:
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]).astype(np.uint8)


def restored(hidden: Image, image: Image, eps: int) -> Image:
    change = np.clip(image.astype(np.int16) - hidden, -eps, eps)
    return (hidden + change).astype(np.uint8)


def middle_open(hidden: Image, image: Image, region: Region) -> Image:
    """The middle quarter of the region, in width and height, as it was."""
    x1, y1, x2, y2 = region.rect
    across, down = (x2 - x1) * 3 // 8, (y2 - y1) * 3 // 8
    part = (slice(y1 + down, y2 - down), slice(x1 + across, x2 - across))
    out = hidden.copy()
    out[part] = image[part]
    return out


def main() -> None:
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name in CLIPS:
        clip = ROOT.parent / "shared" / "data" / name
        seen, times, (height, width) = detections_of(clip)
        covers = cover_boxes(link(seen, times), times)
        with av.open(str(clip)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % 60 != 50:
                    continue
                image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                for spec in ("pixelate_5", "pixelate_8", "pixelate_30", "blur_14", "blur_20", "solid"):
                    obscuring = parse_obscuring(spec)
                    regions = plan_regions(covers, obscuring, height, width)[index]
                    hidden = obscure(image, regions, obscuring)
                    back = restored(hidden, image, 24)
                    variants = {f"{spec}": hidden, f"{spec} + 24, JPEG 90": jpeg(back, 90)}
                    if spec in ("pixelate_5", "blur_14"):
                        soft = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.uint8)
                        variants |= {f"open, JPEG 30 ({spec})": jpeg(image, 30), f"open, soft ({spec})": soft}
                    for variant, written in variants.items():
                        for region in regions:
                            rows.setdefault(variant, []).append(
                                compare_region(image, written, region, obscuring, regions)
                            )
                        if written is hidden and spec == "pixelate_5":
                            for region in regions:
                                part = middle_open(hidden, image, region)
                                rows.setdefault("open in the middle", []).append(
                                    compare_region(image, jpeg(part, 50), region, obscuring, regions)
                                )
    print(f"{'':28}{'regions':>8}{'SSIM max':>10}{'detail max':>12}{'open share: min':>17}{'median':>8}{'max':>8}")
    for variant, values in rows.items():
        ssim, detail, share = (np.array(column) for column in zip(*values, strict=True))
        print(
            f"{variant:28}{len(values):8}{ssim.max():10.3f}{detail.max():12.3f}{share.min():17.3f}"
            f"{np.median(share):8.3f}{share.max():8.3f}"
        )


if __name__ == "__main__":
    main()
