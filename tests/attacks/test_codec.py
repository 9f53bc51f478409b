"""The delivery codec: conversion against the formulas of H.273, and what a round trip costs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attacks.codec import BT709, CODECS, Colour, Converter, DeliveryCodec, EncoderSettings, Focus, find_codec
from tests.clips import patterns
from weights.errors import UsageError

# H.273 table 4: Kr, Kb
_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def _yuv(image: NDArray[np.uint8], matrix: int, full_range: bool) -> NDArray[np.float64]:
    """8-bit Y, Cb, Cr by the equations of H.273 8.3, not rounded. (3, H, W)"""
    red, green, blue = np.moveaxis(image.astype(np.float64), 2, 0)
    kr, kb = _WEIGHTS[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    if full_range:
        return np.stack([luma, cb + 128, cr + 128])
    return np.stack([16 + 219 / 255 * luma, 128 + 224 / 255 * cb, 128 + 224 / 255 * cr])


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", sorted(_WEIGHTS))
def test_conversion_follows_h273(matrix: int, full_range: bool) -> None:
    image = np.random.default_rng(matrix).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    converter = Converter()
    frame = converter.to_frame(image, "yuv444p", Colour(matrix=matrix, full_range=full_range))
    assert (frame.colorspace, frame.color_range) == (matrix, 2 if full_range else 1)
    planes = [
        np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, :40] for plane in frame.planes
    ]
    # swscale computes in 15 bits: half a step of rounding plus at most one more at full range
    assert np.abs(np.stack(planes) - _yuv(image, matrix, full_range)).max() < (1.1 if full_range else 0.6)
    back = converter.to_rgb(frame)
    assert np.abs(back.astype(int) - image).max() <= 2


def test_luma_of_420_is_that_of_444() -> None:
    image = patterns(1, 40, 24)[0]
    frame = Converter().to_frame(image, "yuv420p", Colour())
    luma = np.frombuffer(bytes(frame.planes[0]), np.uint8).reshape(24, -1)[:, :40]
    assert np.abs(luma - _yuv(image, BT709, False)[0]).max() < 0.6


def test_lossless_codecs_change_nothing() -> None:
    frames = np.stack(patterns(3, 33, 17))
    for name in ("h264-rgb", "ffv1"):
        codec = DeliveryCodec(EncoderSettings(CODECS[name], pixel_format=CODECS[name].pixel_format))
        assert np.array_equal(codec.roundtrip(frames), frames)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47), (16, 16)])
def test_round_trip_keeps_shape_and_gets_better_with_crf(width: int, height: int) -> None:
    frames = np.stack(patterns(5, width, height))
    errors = []
    for crf in (10, 23, 40):
        decoded = DeliveryCodec(EncoderSettings(CODECS["h264"], crf=crf)).roundtrip(frames)
        assert decoded.shape == frames.shape
        assert decoded.dtype == np.uint8
        errors.append(np.abs(decoded.astype(int) - frames).mean())
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 8


def test_round_trip_is_deterministic() -> None:
    """Whatever lies around in memory (see X264_PARAMS)."""
    frames = np.stack(patterns(6, 176, 144))
    codec = DeliveryCodec(EncoderSettings(CODECS["h264"]))
    first, random = codec.roundtrip(frames), np.random.default_rng(0)
    for _ in range(8):
        litter = [random.integers(0, 255, random.integers(1000, 400_000), dtype=np.uint8) for _ in range(20)]
        assert np.array_equal(codec.roundtrip(frames), first), f"after {len(litter)} arrays"


def test_frames_keep_their_order_and_times() -> None:
    """Frames far apart in time and unlike each other come back each in its own place (B-frames are reordered)."""
    levels = [20, 200, 90, 150, 40, 230, 120]
    frames = np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])
    settings = EncoderSettings(CODECS["h264"], time_base=Fraction(1, 1000))
    decoded = DeliveryCodec(settings).roundtrip(frames, [0, 5, 40, 41, 300, 301, 900])
    assert np.abs(decoded.astype(int) - frames).max() <= 4


def test_focus_is_coded_more_finely_and_nothing_else_is() -> None:
    """Eight steps of the quantiser are a factor of 2.5 in its step size (2 every 6)."""
    texture = np.random.default_rng(0).normal(0, 12, (6, 128, 256, 3))
    frames = np.clip(128 + 3 * gaussian_filter(texture, (1, 1.5, 1.5, 0)), 0, 255).astype(np.uint8)
    inside = np.zeros((128, 256), bool)
    inside[32:96, 64:128] = True
    noise = {}
    for offset in (0, -8):
        codec = DeliveryCodec(EncoderSettings(CODECS["h264"], pixel_format="yuv444p", focus_qp=offset))
        change = codec.roundtrip(frames, focus=[[(64, 32, 128, 96)]] * 6).astype(float) - frames
        noise[offset] = [np.sqrt(np.square(change[:, part]).mean()) for part in (inside, ~inside)]
    assert noise[-8][0] < 0.75 * noise[0][0]
    assert noise[-8][1] == pytest.approx(noise[0][1], rel=0.1)


def test_marking_a_focus_leaves_the_frame_as_it_is() -> None:
    image = patterns(1, 64, 48)[0]
    for full_range in (False, True):
        colour = Colour(matrix=5, full_range=full_range)
        settings = EncoderSettings(CODECS["h264"], colour=colour, focus_qp=-6)
        frame = Converter().to_frame(image, "yuv420p", colour)
        marked = Focus(settings).mark(frame, [(0, 0, 16, 16), (20, 8, 64, 48)])
        assert [bytes(plane) for plane in marked.planes] == [bytes(plane) for plane in frame.planes]
        assert (marked.colorspace, marked.color_range) == (frame.colorspace, frame.color_range)


def test_bad_settings_name_what_is_allowed() -> None:
    with pytest.raises(UsageError, match="h264-rgb"):
        find_codec("h265")
    with pytest.raises(ValueError, match=r"crf 52 .* 0 to 51"):
        EncoderSettings(CODECS["h264"], crf=52)
    with pytest.raises(ValueError, match="veryslow"):
        EncoderSettings(CODECS["h264"], preset="hasty")
    with pytest.raises(ValueError, match=r"focus_qp 3 .* -20 to 0"):
        EncoderSettings(CODECS["h264"], focus_qp=3)
