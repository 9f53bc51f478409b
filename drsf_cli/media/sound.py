"""The source's sound, synchronous with the video that is being written: copied packet by packet, or encoded as AAC.

Only audible sound is taken. What an edit list hides is still in the packets, but somebody cut it off on purpose, so it
is left out. One packet before the first audible one is kept if the output can hide it in turn, because codecs whose
blocks overlap (AAC) need it to start.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from numpy.typing import NDArray
from typing_extensions import override

from drsf_cli.media.container import clock_origin, discard_others, is_one_of, open_container, pick_video, reason
from drsf_cli.media.timing import Restarts, may_restart, sound_restarts
from drsf_cli.settings import Audio
from weights.errors import InputError, OutputError

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""Samples a second that AAC knows (ISO/IEC 14496-3, table 1.18)."""
_BLOCK = 1024
"""Samples of an AAC frame."""
_JITTER = 0.02
"""Seconds by which sound may be off its time before it is moved back: containers round times to a millisecond."""


def open_sound(audio: Audio, source: Path, container: OutputContainer, final: Path) -> Sound | None:
    """The sound of `source` that goes into `container`, the future file `final`; None if the sound is dropped.

    Raises InputError, and OutputError if the container cannot hold the sound.
    """
    if audio == "drop":
        return None
    return (_Copy if audio == "copy" else _Aac)(source, container, final)


class _Source:
    """The audible packets of all sound streams of a file, on one clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = open_container(path)
        self.streams = list(self.container.streams.audio)
        self.origin = clock_origin(self.container)
        self._restarts: dict[int, Restarts] = {}
        try:
            if self.streams and may_restart(self.container):
                given = sound_restarts(path, pick_video(self.container, path), self.streams)
                self._restarts = {s.index: Restarts(cast(Fraction, s.time_base), given[s.index]) for s in self.streams}
            discard_others(self.container, self.streams)
            for stream in self.streams:
                stream.discard = av.stream.Discard.default
        except BaseException:
            self.container.close()
            raise

    def packets(self, *, primed: bool) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """(seconds on the source's clock, packet). `primed`: with the one before the first that is heard."""
        primings: dict[int, Packet[Any] | None] = {}
        for packet in self._all():
            if not packet.size or packet.pts is None:
                continue
            if packet.stream_index in self._restarts:
                self._restarts[packet.stream_index].move(packet)
            begins = packet.pts * packet.time_base - self.origin
            hidden = packet.is_discard or begins + (packet.duration or 0) * packet.time_base <= 0
            started = packet.stream_index in primings and primings[packet.stream_index] is None
            if hidden:
                if not started:
                    primings[packet.stream_index] = packet
                continue
            priming = primings.get(packet.stream_index)
            primings[packet.stream_index] = None
            if priming is not None and primed:
                yield cast(int, priming.pts) * priming.time_base - self.origin, priming
            yield begins, packet

    def _all(self) -> Iterator[Packet[Any]]:
        if not self.streams:
            return
        packets = self.container.demux(self.streams)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                raise InputError(f"{self.path} has sound that cannot be read ({reason(error)}).") from error
            if packet is None:
                return
            yield packet


class Sound(ABC):
    """The sound of a file on its way into an output: the interface through which a video writer writes it."""

    def __init__(self, source: Path, container: OutputContainer) -> None:
        self._source, self._output = _Source(source), container

    @abstractmethod
    def begin(self, shift: Fraction, end: Fraction | None) -> None:
        """Sound from `shift` on and before `end` (s on the source's clock) is written, moved by -shift."""

    @abstractmethod
    def write_until(self, seconds: Fraction | None) -> None:
        """Write the sound that is due before `seconds` of the output, or all remaining sound if None."""

    def close(self) -> None:
        """Close the source."""
        self._source.container.close()


class _Copy(Sound):
    """Copies packets unchanged."""

    def __init__(self, source: Path, container: OutputContainer, final: Path) -> None:
        super().__init__(source, container)
        # Matroska has no edit lists, only a delay that is copied with the codec: without that, what lies before zero
        # would be heard, and the picture be late by as much
        self._hides = container.format.name in ("mp4", "mov") or is_one_of(self._source.container, ("matroska",))
        self._streams: dict[int, AudioStream] = {}
        self._packets: Iterator[Packet[Any]] = iter(())
        for stream in self._source.streams:
            try:
                copy = container.add_stream_from_template(stream)
            except (FFmpegError, ValueError, AttributeError) as error:
                self.close()
                raise OutputError(
                    f"{final} cannot hold the sound of {source} as it is ({stream.codec_context.name}); choose --audio "
                    "aac, which codes it anew, or leave it out."
                ) from error
            copy.metadata.clear()
            self._streams[stream.index] = copy

    @override
    def begin(self, shift: Fraction, end: Fraction | None) -> None:
        self._packets = self._moved(shift, end)

    def _moved(self, shift: Fraction, end: Fraction | None) -> Iterator[Packet[Any]]:
        last: dict[int, int] = {}
        for begins, packet in self._source.packets(primed=self._hides):
            if (shift and begins < shift) or (end is not None and begins >= end):
                continue
            ticks = round((shift + self._source.origin) / packet.time_base)
            packet.pts = cast(int, packet.pts) - ticks
            if packet.dts is not None:
                packet.dts -= ticks
                # where a clock starts anew the sound may reach beyond what follows
                if packet.dts <= last.get(packet.stream_index, packet.dts - 1):
                    continue
                last[packet.stream_index] = packet.dts
            packet.stream = self._streams[packet.stream_index]
            yield packet

    @override
    def write_until(self, seconds: Fraction | None) -> None:
        for packet in self._packets:
            if seconds is not None and cast(int, packet.pts) * packet.time_base > seconds:
                self._packets = itertools.chain((packet,), self._packets)
                return
            self._output.mux_one(packet)


class _Aac(Sound):
    """Decodes every sound stream and codes it as AAC, to the sample between start and end."""

    def __init__(self, source: Path, container: OutputContainer, final: Path) -> None:
        super().__init__(source, container)
        self._lines: dict[int, _Line] = {}
        self._frames: Iterator[tuple[Fraction, _Line, NDArray[np.float32]]] = iter(())
        try:
            for stream in self._source.streams:
                context = stream.codec_context
                if context is None:
                    raise InputError(f"{source} has sound that cannot be decoded here; leave it out.")
                rate = min(AAC_RATES, key=lambda known, own=context.sample_rate: (abs(known - own), known))  # type: ignore[misc]
                coded = cast(Any, container.add_stream("aac", rate=rate, layout=_layout(context.layout)))
                self._lines[stream.index] = _Line(coded, rate)
        except (FFmpegError, ValueError) as error:
            self.close()
            raise OutputError(f"{final} cannot hold the sound of {source} as AAC ({error}); leave it out.") from error
        except BaseException:
            self.close()
            raise

    @override
    def begin(self, shift: Fraction, end: Fraction | None) -> None:
        self._frames = self._decoded(shift, end)

    def _decoded(self, shift: Fraction, end: Fraction | None) -> Iterator[tuple[Fraction, _Line, NDArray[np.float32]]]:
        """(seconds of the output, where it goes, samples (channels, n) that are heard)."""
        for _, packet in self._source.packets(primed=True):
            line = self._lines[packet.stream_index]
            try:
                frames = cast(Any, packet).decode()
            except (FFmpegError, ValueError) as error:
                raise InputError(f"{self._source.path} has sound that cannot be decoded ({reason(error)}).") from error
            for frame in frames:
                if frame.pts is None:
                    continue
                at = frame.pts * frame.time_base - self._source.origin - shift
                for part in line.resampler.resample(frame):
                    samples, at = line.cut(
                        part.to_ndarray().astype(np.float32), at, None if end is None else end - shift
                    )
                    if samples.size:
                        yield at, line, samples
                    at += Fraction(samples.shape[1], line.rate)

    @override
    def write_until(self, seconds: Fraction | None) -> None:
        for at, line, samples in self._frames:
            if seconds is not None and at > seconds:
                self._frames = itertools.chain(((at, line, samples),), self._frames)
                return
            self._output.mux(line.encode(samples, at))
        if seconds is None:
            for line in self._lines.values():
                self._output.mux(line.finish())


def _layout(layout: AudioLayout) -> str:
    """The channel layout that is encoded: the source's, if AAC has a number for it (ISO/IEC 14496-3, table 1.19).

    A source that only counts its channels, as AVI does, is taken for mono or stereo.
    """
    if layout.name in ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"):
        return layout.name
    return "mono" if layout.nb_channels == 1 else "stereo"


class _Line:
    """One stream: its samples on a time line without gaps, and its encoder."""

    def __init__(self, stream: Any, rate: int) -> None:
        self.stream, self.rate = stream, rate
        self.resampler = AudioResampler(format="fltp", layout=stream.codec_context.layout.name, rate=rate)
        self._waiting: NDArray[np.float32] = np.zeros((stream.codec_context.layout.nb_channels, 0), np.float32)
        self._given = 0
        """Samples that the encoder has."""

    def cut(
        self, samples: NDArray[np.float32], at: Fraction, end: Fraction | None
    ) -> tuple[NDArray[np.float32], Fraction]:
        """The part of samples (channels, n) that lies between zero and `end`, and when it begins.

        The samples begin at second `at`.
        """
        first = max(0, round(-at * self.rate))
        last = samples.shape[1] if end is None else max(first, round((end - at) * self.rate))
        return samples[:, first:last], at + Fraction(min(first, samples.shape[1]), self.rate)

    def encode(self, samples: NDArray[np.float32], at: Fraction) -> list[Packet[Any]]:
        """Encode samples (channels, n) for second `at`. Silence fills a gap before them; repeated ones are left out."""
        behind = round(at * self.rate) - self._given - self._waiting.shape[1]
        if behind > _JITTER * self.rate:
            samples = np.pad(samples, ((0, 0), (behind, 0)))
        elif -behind > _JITTER * self.rate:
            samples = samples[:, -behind:]
        self._waiting = np.concatenate([self._waiting, samples], axis=1)
        return self._blocks(self._waiting.shape[1] // _BLOCK * _BLOCK)

    def finish(self) -> list[Packet[Any]]:
        """Encode the samples that are left."""
        return [*self._blocks(self._waiting.shape[1]), *self.stream.encode(None)]

    def _blocks(self, count: int) -> list[Packet[Any]]:
        packets: list[Packet[Any]] = []
        for start in range(0, count, _BLOCK):
            block = np.ascontiguousarray(self._waiting[:, start : min(start + _BLOCK, count)])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self.stream.codec_context.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self._given, Fraction(1, self.rate)
            self._given += block.shape[1]
            packets += self.stream.encode(frame)
        self._waiting = self._waiting[:, count:]
        return packets
