"""For runs in a process of their own that are to be stopped at a known place."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from drsf_cli.media.reader import Frame, VideoReader


def prepare() -> None:
    """From here on this process says a line for each frame it reads, and takes SIGINT also where it is ignored, as a
    shell has it for background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    read = VideoReader.__iter__

    def spoken(self: VideoReader) -> Iterator[Frame]:
        for frame in read(self):
            print(".", flush=True)
            yield frame

    VideoReader.__iter__ = spoken  # type: ignore[method-assign]
