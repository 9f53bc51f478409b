"""What the delivery codec costs inside the attack's loop, and reading and writing outside it.

    python -m tests.benchmarks.codec [CLIP]

Processor time (all threads) a frame, so that other work on the machine does not count. Default clip: patterns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from attacks.codec import DeliveryCodec
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import VideoWriter, encoder_settings
from tests.clips import make_clip, patterns


def _cost(work: Callable[[], object], frames: int, repeats: int = 3) -> float:
    """Least milliseconds of processor time a frame."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * min(times) / frames


def main(clip: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = clip or make_clip(Path(folder) / "patterns.mp4", patterns(24, 1280, 720))
        reader = VideoReader(clip)
        frames = list(islice(reader, 16))
        print(f"{clip.name}, {reader.info.width}x{reader.info.height}")
        print(f"read                         {_cost(lambda: list(islice(reader, 16)), 16):7.1f} ms/frame")
        for codec in ("h264", "ffv1", "h264-rgb"):

            def write(codec: str = codec) -> None:
                with VideoWriter(Path(folder) / "out.mkv", reader.info, encoder_settings(reader.info, codec)) as writer:
                    for frame in frames:
                        writer.write(frame.image, frame.pts_ticks)
                    writer.finish()

            print(f"write {codec:<9}              {_cost(write, 16):7.1f} ms/frame")
        top, left = (reader.info.height - 400) // 32 * 16, (reader.info.width - 400) // 32 * 16
        window = np.stack([frame.image[top : top + 400, left : left + 400] for frame in frames[:8]])
        for preset in ("medium", "veryfast", "ultrafast"):
            loop = DeliveryCodec(encoder_settings(reader.info, "h264", preset=preset))
            cost = _cost(lambda loop=loop: loop.roundtrip(window), 8)  # type: ignore[misc]
            print(f"roundtrip 8x400x400 {preset:<9}{cost:7.1f} ms/frame")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
