"""The sound that is written: what is heard of the source's, in step with the picture, and nothing else."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import encoder_settings, open_writer
from tests import clips
from weights.errors import InputError, OutputError

RATE = 16000


def copied(source: Path, target: Path, audio: Any, **times: float) -> Path:
    reader = VideoReader(source, **times)
    with open_writer(
        target, reader.info, encoder_settings(reader.info, preset="ultrafast"), audio=audio, **times
    ) as writer:
        for frame in reader:
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
        writer.publish()
    return target


def heard(path: Path, **options: str) -> NDArray[np.float32]:
    """Mono samples as a player hears them, from second 0 on; of the packets with `ignore_editlist`."""
    parts = []
    with av.open(str(path), options=options) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            samples = np.concatenate([part.to_ndarray()[0] for part in resampler.resample(frame)] or [np.zeros(0)])
            before = 0 if options else max(0, round(-(frame.pts or 0) * frame.time_base * RATE))
            parts.append(samples[before:])
    return np.concatenate(parts).astype(np.float32)


def blocks_of(samples: NDArray[np.float32], hertz: float) -> int:
    """Blocks of 1024 samples in which this tone is the strongest."""
    whole = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    spectrum = np.abs(np.fft.rfft(whole, axis=1))
    return int((np.abs(spectrum.argmax(axis=1) * RATE / 1024 - hertz) < 20).sum())


def trimmed(folder: Path) -> Path:
    """Two seconds, of which the first is hidden by an edit list: 1500 Hz there, 440 Hz in what is left."""
    path = clips.make_clip(folder / "in.mp4", clips.patterns(50, 64, 48), audio="last", hertz=(1500, 440))
    return clips.hide_start(path, 1.0)


@pytest.mark.parametrize("audio", ["copy", "aac"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_that_was_cut_off_is_not_brought_along(audio: str, suffix: str, tmp_path: Path) -> None:
    source = trimmed(tmp_path)
    everything = heard(source, ignore_editlist="1")
    assert min(blocks_of(everything, 1500), blocks_of(everything, 440)) >= 15, "the source has both"
    output = copied(source, tmp_path / f"out.{suffix}", audio)
    left = heard(output, ignore_editlist="1") if suffix == "mp4" else heard(output)
    # of a copy the packet before the first one that is heard, which is needed to start, and that one's hidden part
    assert blocks_of(left, 1500) <= (2 if audio == "copy" else 0)
    assert blocks_of(left, 440) >= 14
    expected, found = heard(source), heard(output)
    assert abs(len(expected) - len(found)) <= 1024
    assert abs(blocks_of(found, 440) - blocks_of(expected, 440)) <= 1


def test_what_is_copied_is_heard_as_before(tmp_path: Path) -> None:
    source = trimmed(tmp_path)
    output = copied(source, tmp_path / "out.mp4", "copy")
    expected, found = heard(source), heard(output)
    assert len(expected) == len(found)
    assert np.abs(expected - found).max() < 1e-4


@pytest.mark.parametrize("audio", ["copy", "aac"])
def test_sound_stays_in_step_where_a_clock_starts_anew(audio: str, tmp_path: Path) -> None:
    """440 Hz for the first recording's 0.8 s, then 1000 Hz."""
    parts = [
        clips.make_clip(tmp_path / f"{hertz}.ts", clips.patterns(20, 64, 48), audio="last", hertz=(hertz,))
        for hertz in (440, 1000)
    ]
    source = clips.join_transport(parts, tmp_path / "joined.ts")
    output = copied(source, tmp_path / "out.mp4", audio)
    with av.open(str(output)) as container:
        pts = [Fraction(frame.pts or 0) * frame.time_base for frame in container.decode(video=0)]
    assert np.allclose(np.diff([float(one) for one in pts]), 0.04, atol=1e-3)
    samples = heard(output)
    assert abs(len(samples) / RATE - 1.6) < 0.15
    early, late = samples[: int(0.7 * RATE)], samples[int(1.0 * RATE) :]
    assert (blocks_of(early, 1000), blocks_of(late, 440)) == (0, 0)
    assert blocks_of(early, 440) >= 9
    assert blocks_of(late, 1000) >= 7


def test_sound_that_does_not_start_anew_with_the_picture(tmp_path: Path) -> None:
    silent = clips.make_clip(tmp_path / "a.ts", clips.patterns(20, 64, 48))
    loud = clips.make_clip(tmp_path / "b.ts", clips.patterns(20, 64, 48), audio="last")
    source = clips.join_transport([loud, silent], tmp_path / "joined.ts")
    with pytest.raises(InputError, match="starts anew 0 times where the picture's does 1 times"):
        copied(source, tmp_path / "out.mp4", "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ts", "b.ts", "joined.ts"]


@pytest.mark.parametrize("codec", ["pcm_mulaw", "adpcm_ima_wav", "pcm_s16le"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_sound_that_a_container_cannot_hold_is_coded_anew(codec: str, suffix: str, tmp_path: Path) -> None:
    source = clips.make_clip(
        tmp_path / "in.avi", clips.patterns(25, 64, 48), codec="mpeg4", audio="last", audio_codec=codec
    )
    if codec != "pcm_s16le":
        with pytest.raises(OutputError, match=rf"{suffix} cannot hold .*\({codec}\); choose --audio aac"):
            copied(source, tmp_path / f"out.{suffix}", "copy")
    output = copied(source, tmp_path / f"out.{suffix}", "aac")
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    samples = heard(output)
    assert 0 <= len(samples) - len(heard(source)) <= 2048  # the last block is filled up, and one goes before the first
    assert blocks_of(samples, 440) >= 14


def test_coded_sound_is_cut_to_the_part(tmp_path: Path) -> None:
    source = clips.make_clip(
        tmp_path / "in.mp4", clips.patterns(50, 64, 48), audio="first", hertz=(1500, 440, 1500, 440)
    )
    output = copied(source, tmp_path / "out.mp4", "aac", start=0.52, end=0.96)
    samples = heard(output)
    assert abs(len(samples) - 0.44 * RATE) <= 1024
    assert blocks_of(samples, 1500) == 0
    assert blocks_of(samples, 440) >= 5
