"""The reader of .tflite graphs: hand-computed operators, LiteRT beside the real networks, damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from victims.mediapipe import tflite
from victims.mediapipe.attention import read_options, transform_landmarks, transform_matrix, transform_tensor
from victims.mediapipe.graph import TfliteNetwork, depth_to_space, load_network, same_padding
from victims.mediapipe.tflite import Graph, Operator, read_tflite
from weights.errors import WeightsError

FILES = ("face_detection_short_range.tflite", "face_detection_full_range_sparse.tflite")
ATTENTION = "face_landmark_with_attention.tflite"

CONVOLUTION = {
    "padding": 0,
    "stride_x": 2,
    "stride_y": 2,
    "activation": 0,
    "dilation_x": 1,
    "dilation_y": 1,
}
POOL = {"padding": 0, "stride_x": 2, "stride_y": 2, "width": 2, "height": 2, "activation": 0}


def network_of(
    kind: str,
    shape: tuple[int, ...],
    result: tuple[int, ...],
    options: dict[str, int],
    *constants: Any,
) -> TfliteNetwork:
    """One operator: tensor 0 goes in, tensor 1 comes out, constants are its further inputs."""
    numbers = range(2, 2 + len(constants))
    operator = Operator(kind, (0, *numbers), (1,), options, b"")
    values = {n: np.asarray(value) for n, value in zip(numbers, constants, strict=True)}
    shapes = (shape, result, *(value.shape for value in values.values()))
    return TfliteNetwork(Graph((operator,), shapes, values, (0,), (1,)))


def images(height: int, width: int, channels: int = 1) -> torch.Tensor:
    """NHWC counted from 0, as NCHW."""
    count = height * width * channels
    return torch.arange(float(count)).reshape(1, height, width, channels).permute(0, 3, 1, 2)


# ------------------------------------------------------------------- operators


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "expected"),
    [(5, 3, 2, 1, (1, 1)), (6, 3, 2, 1, (0, 1)), (128, 5, 2, 1, (1, 2)), (8, 3, 1, 2, (2, 2)), (4, 2, 2, 1, (0, 0))],
)
def test_padding_same(size: int, kernel: int, stride: int, dilation: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride, dilation) == expected


def test_convolution_pads_at_the_end() -> None:
    kernel = np.ones((1, 3, 3, 1), np.float32)
    bias = np.array([0.5], np.float32)
    network = network_of("CONV_2D", (1, 4, 4, 1), (1, 2, 2, 1), CONVOLUTION, kernel, bias)
    # sums of rows and columns 0..2 and 2..3 of 0..15
    assert network(images(4, 4))[0].tolist() == [[45.5, 39.5, 66.5, 50.5]]


def test_depthwise_convolution_keeps_channels_apart() -> None:
    kernel = np.zeros((1, 1, 1, 2), np.float32)
    kernel[..., 0], kernel[..., 1] = 10.0, 100.0
    options = CONVOLUTION | {"stride_x": 1, "stride_y": 1, "activation": 1}
    network = network_of(
        "DEPTHWISE_CONV_2D", (1, 1, 2, 2), (1, 1, 2, 2), options, kernel, np.array([0.0, -150.0], np.float32)
    )
    # (0, 1) and (2, 3), NHWC; the fused ReLU cuts 100 - 150
    assert network(images(1, 2, 2))[0].tolist() == [[0.0, 0.0, 20.0, 150.0]]


def test_pooling_of_an_odd_size() -> None:
    network = network_of("MAX_POOL_2D", (1, 3, 3, 1), (1, 2, 2, 1), POOL)
    assert network(-images(3, 3))[0].tolist() == [[-0.0, -2.0, -6.0, -8.0]]


def test_padding_of_channels() -> None:
    amounts = np.array([[0, 0], [0, 1], [0, 0], [0, 1]], np.int32)
    network = network_of("PAD", (1, 1, 1, 2), (1, 2, 1, 3), {}, amounts)
    assert network(images(1, 1, 2) + 1)[0].tolist() == [[1.0, 2.0, 0.0, 0.0, 0.0, 0.0]]


def test_depth_to_space_takes_blocks_first() -> None:
    network = network_of("DEPTH_TO_SPACE", (1, 1, 1, 8), (1, 2, 2, 2), {"block": 2})
    assert network(images(1, 1, 8))[0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert depth_to_space(images(1, 1, 8), 2)[0, 0].tolist() == [[0.0, 2.0], [4.0, 6.0]]


def test_resizing_has_half_pixel_centres() -> None:
    options = {"align_corners": 0, "half_pixel_centers": 1}
    network = network_of("RESIZE_BILINEAR", (1, 1, 2, 1), (1, 1, 4, 1), options, np.array([1, 4], np.int32))
    assert network(images(1, 2))[0].tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_reshape_flattens_channels_last() -> None:
    network = network_of("RESHAPE", (1, 2, 1, 2), (1, 4), {}, np.array([1, 4], np.int32))
    assert network(torch.cat([images(2, 1, 2)] * 3))[0].tolist() == [[0.0, 1.0, 2.0, 3.0]] * 3


def test_prelu_has_a_slope_a_channel() -> None:
    slopes = np.array([[[0.5, 0.25]]], np.float32)
    network = network_of("PRELU", (1, 1, 1, 2), (1, 1, 1, 2), {}, slopes)
    assert network(-images(1, 1, 2) - 4)[0].tolist() == [[-2.0, -1.25]]


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="SOFTMAX"):
        network_of("SOFTMAX", (1, 1, 1, 2), (1, 1, 1, 2), {})


# ------------------------------------------------------------------- the attention's own operators


def test_flexbuffers_of_a_custom_operator() -> None:
    data = b"output_height\0output_width\0\x02\x1c\x0f\x02\x01\x02\x10\x10\x04\x04\x04$\x01"
    assert read_options(data) == {"output_height": 16, "output_width": 16}


def test_the_matrix_of_an_upright_box() -> None:
    points = torch.tensor([[[2.0, 1.0, 9.0], [6.0, 1.0, 9.0], [4.0, 3.0, 9.0]]])
    matrix = transform_matrix(points, [0, 1, 2], (0, 1), (1.5, 1.5), (16, 16))[0]
    # box 2..6 x 1..3: a pixel of the patch is 1.5 · 4 / 16 wide and 1.5 · 2 / 16 high, (8, 8) lies at (4, 2)
    expected = [[0.375, 0.0, 0.0, 1.0], [0.0, 0.1875, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_the_matrix_turns_with_its_axis() -> None:
    # the same box turned by 90 degrees about the origin: (x, y) -> (-y, x)
    points = torch.tensor([[[-1.0, 2.0], [-1.0, 6.0], [-3.0, 4.0]]])
    matrix = transform_matrix(points, [0, 1, 2], (0, 1), (1.5, 1.5), (16, 16))
    moved = transform_landmarks(torch.tensor([[[8.0, 8.0], [0.0, 8.0]]]), matrix)
    np.testing.assert_allclose(moved[0], [[-2.0, 4.0], [-2.0, 1.0]], atol=1e-6)


def test_patches_are_zero_outside_the_map() -> None:
    maps = torch.arange(9.0).reshape(1, 1, 3, 3)
    matrix = torch.eye(4)[None].clone()
    matrix[0, 0, 3] = 0.5
    # samples at x + 0.5: 0.5, 1.5, and 2.5, which lies beyond the last centre
    assert transform_tensor(maps, matrix, (2, 3))[0, 0].tolist() == [[0.5, 1.5, 0.0], [3.5, 4.5, 0.0]]


# ------------------------------------------------------------------- sparse tensors


class Level:
    """A FlatBuffers table by its fields."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def scalar(self, number: int, code: str, missing: int = 0) -> int:
        return int(self.fields.get(f"f{number}", missing))

    def array(self, number: int, dtype: str) -> np.ndarray:
        return np.array(self.fields[f"f{number}"])

    def table(self, number: int) -> Level | None:
        return self.fields.get(f"f{number}")

    def tables(self, number: int) -> list[Level]:
        return self.fields[f"f{number}"]


def test_sparse_rows_are_spread() -> None:
    rows = Level(f0=0, f1=3)
    columns = Level(f0=1, f2=3, f3=Level(f0=[0, 2, 2, 3]), f4=3, f5=Level(f0=[0, 3, 1]))
    sparsity = Level(f0=[0, 1], f2=[rows, columns])
    dense = tflite._densify(np.array([5.0, 6.0, 7.0]), (3, 4), sparsity)
    assert dense.tolist() == [[5, 0, 0, 6], [0, 0, 0, 0], [0, 7, 0, 0]]
    turned = tflite._densify(np.array([5.0, 6.0, 7.0]), (4, 3), Level(f0=[1, 0], f2=[rows, columns]))
    assert turned.tolist() == dense.T.tolist()


# ------------------------------------------------------------------- files


@pytest.mark.parametrize("name", [*FILES, "face_landmark.tflite", "iris_landmark.tflite"])
def test_networks_equal_litert(mediapipe_files: Path, name: str) -> None:
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    path = mediapipe_files / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    network = load_network(path)
    theirs = interpreters.Interpreter(str(path))
    theirs.allocate_tensors()
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand((2, *network.input_shape), generator=generator)
    with torch.no_grad():
        ours = network(crops)
    for row in (0, 1):
        theirs.set_tensor(theirs.get_input_details()[0]["index"], crops[row : row + 1].permute(0, 2, 3, 1).numpy())
        theirs.invoke()
        for own, detail in zip(ours, theirs.get_output_details(), strict=True):
            np.testing.assert_allclose(own[row].flatten(), theirs.get_tensor(detail["index"]).ravel(), atol=2e-4)


@pytest.mark.parametrize(
    ("name", "grey", "first", "total", "last"),
    [
        (FILES[0], 0.0, 0.5614, 139668.37, -15480.04),
        (FILES[1], 0.0, -5.0230, 74806.56, -16601.39),
        (ATTENTION, 0.5, 95.7418, 90740.55, -6.8959),
    ],
)
def test_published_sums(mediapipe_files: Path, name: str, grey: float, first: float, total: float, last: float) -> None:
    network = load_network(mediapipe_files / name)
    with torch.no_grad():
        outputs = network(torch.full((1, *network.input_shape), grey))
    assert float(outputs[0].flatten()[0]) == pytest.approx(first, rel=1e-4)
    assert float(outputs[0].sum()) == pytest.approx(total, rel=1e-4)
    assert float(outputs[-1].sum()) == pytest.approx(last, rel=1e-4)


def test_a_file_that_is_cut_is_refused(mediapipe_files: Path, tmp_path: Path) -> None:
    data = (mediapipe_files / FILES[0]).read_bytes()
    path = tmp_path / "cut.tflite"
    for share in (0.02, 0.3, 0.7, 0.98):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(WeightsError, match=r"cut\.tflite.*drsf weights pull mediapipe"):
            read_tflite(path)


def test_another_model_is_refused(mediapipe_files: Path) -> None:
    with pytest.raises(WeightsError, match="another model"):
        load_network(mediapipe_files / ATTENTION, {0: (896, 16), 1: (896, 1)})


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.tflite"
    with pytest.raises(WeightsError, match="cannot be read"):
        read_tflite(path)
    for content in (b"", b"no model at all", b"\x10\0\0\0TFL3" + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"note\.tflite"):
            read_tflite(path)
