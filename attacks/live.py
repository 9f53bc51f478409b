"""The delivery encoder at work: what a reader will see of the next frames, after all that were written before.

A lossy encoder's noise is decided by chance: change one pixel, and blocks far away are coded otherwise. What another
encoder makes of a frame, from other frames before it, has noise of the same size and nothing else in common with that
in the file. So a perturbation that is to be read back is tried on the encoder that is in the middle of the very file.
Its state cannot be copied, but the process that holds it can be forked: `LiveCodec` runs a small process with the
encoder and a decoder in it; every trial is a fork of that process, which encodes, decodes, answers and ends.

The encoder never looks ahead (attacks/codec.py), so what a trial gives is what the file will have, to the last bit,
as long as the same frames are written in the end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Self, cast

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from attacks.codec import CodecState, EncoderSettings, Rect
from attacks.obscure import CoveredImage
from weights.errors import DrsfError

PATIENCE = 600
"""Seconds after which a trial that does not end is ended."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A frame as the writer gets it."""

    image: CoveredImage
    pts_ticks: int
    focus: Sequence[Rect] = ()


class LiveCodec:
    """An encoder of its own that is given what the writer's is given, in the same order, and can be asked in between.

    Raises DrsfError where processes cannot be forked, or where the codec fails.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        if not hasattr(os, "fork"):
            raise DrsfError("Embedding through a lossy codec needs Linux or macOS; choose --codec ffv1 here.")
        self.settings = settings
        # modules from where this process has them, whatever lies in the working directory; a session of its own, so
        # that an interrupt of the terminal reaches only who asks
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "attacks.live"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,
        )
        self._send(settings)

    def take(self, frame: Sent) -> None:
        """The next frame is settled. Returns at once."""
        self._send((frame, None))

    def trial(self, frames: Sequence[Sent], rect: Rect) -> NDArray[np.uint8]:
        """What a reader would see in `rect` if `frames` came next: (N, h, w, 3) uint8 RGB. Changes nothing."""
        self._send((list(frames), rect))
        try:
            answer = pickle.load(cast(IO[bytes], self._process.stdout))
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        if isinstance(answer, str):
            raise DrsfError(f"The codec {self.settings.codec.name} failed: {answer}.")
        return cast(NDArray[np.uint8], answer)

    def _send(self, what: Any) -> None:
        pipe = cast(IO[bytes], self._process.stdin)
        try:
            pickle.dump(what, pipe, protocol=5)
            pipe.flush()
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> DrsfError:
        return DrsfError("The process of the delivery encoder ended; it may be short of memory.")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent yet cannot be
                    pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The process's work, until `requests` ends."""
    state = CodecState(pickle.load(requests))
    while True:
        try:
            what, rect = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # whoever asked has ended, perhaps in the middle of a frame
            return
        if rect is None:
            state.push(what.image, what.pts_ticks, what.focus)
            state.forget()
            continue
        child = os.fork()
        if child:
            if os.waitpid(child, 0)[1]:
                return
            continue
        try:
            signal.alarm(PATIENCE)
            x1, y1, x2, y2 = rect
            for frame in what:
                state.push(frame.image, frame.pts_ticks, frame.focus)
            seen = state.last(len(what))
            answer: Any = np.stack([image[y1:y2, x1:x2] for image in seen])
        except (DrsfError, FFmpegError, ValueError, TypeError, IndexError, OSError, MemoryError) as error:
            answer = f"{type(error).__name__}, {error}"
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # with nobody to answer it ends without a word
    serve(sys.stdin.buffer, sys.stdout.buffer)
