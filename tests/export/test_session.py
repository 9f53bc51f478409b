"""ONNX Runtime behind the call of a torch network, its providers, and the cache of exported graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

import export.onnx
import export.session
from export.session import OnnxCache, OnnxNetwork, authorised, cache_folder, cuda_problem, use_cuda
from tests.export.stub import Net, Stub
from victims.camera import angle_between_degrees
from victims.fan import CompactFan
from victims.gaze import load_gaze
from victims.mtcnn import load_mtcnn
from victims.observe import Observer
from weights.errors import DeviceError, InputError

CPU_ONLY = pytest.mark.skipif(cuda_problem() is None, reason="ONNX Runtime has a usable CUDA device here")


@pytest.fixture
def graph() -> bytes:
    return export.onnx.export_network(Stub(), "net")[0]


def test_it_is_called_like_the_torch_network(graph: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(graph)
    pixels = torch.rand(3, 3, 20, 9, requires_grad=True).flip(-1)  # neither contiguous nor without gradient
    pose = torch.rand(3, 2)
    expected = Net().eval()(pixels, pose)
    for network in (OnnxNetwork(graph), OnnxNetwork(path, "cpu")):
        found = network(pixels, pose)
        assert isinstance(found, tuple)
        for a, b in zip(expected, found, strict=True):
            assert b.dtype == torch.float32
            assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError):
        OnnxNetwork(graph)(pixels)


def test_an_empty_batch_gives_empty_outputs() -> None:
    """MTCNN's ONet flattens with an inferred size, which ONNX Runtime refuses for nothing."""
    victim = load_mtcnn()
    network = OnnxNetwork(export.onnx.export_network(victim, "onet")[0])
    shapes = [tuple(value.shape) for value in network(torch.zeros(0, 3, 48, 48))]
    assert shapes == [(0, 4), (0, 10), (0, 2)]


def test_many_threads_may_call_it(graph: bytes) -> None:
    network, net = OnnxNetwork(graph, "cpu"), Net().eval()
    batches = [(torch.rand(2, 3, 16, 16 + i), torch.rand(2, 2)) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: network(*batch), batches))
    for batch, values in zip(batches, found, strict=True):
        assert torch.allclose(net(*batch)[0], values[0], atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_what_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.onnx: is not an ONNX graph") as caught:
        OnnxNetwork(path)
    assert "\n" not in str(caught.value)


@CPU_ONLY
def test_cuda_that_is_not_there_is_an_error_with_the_runtimes_words(graph: bytes) -> None:
    with pytest.raises(DeviceError, match=r"--device cuda cannot be used: ONNX Runtime reports '.{8,}'; use --device"):
        OnnxNetwork(graph, "cuda")
    assert OnnxNetwork(graph, "auto").providers == ("CPUExecutionProvider",)
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        use_cuda("gpu")  # type: ignore[arg-type]


@pytest.mark.slow
@CPU_ONLY
def test_no_line_is_printed_where_there_is_no_gpu(graph: bytes, tmp_path: Path) -> None:
    """In a process of its own: native code prints past sys.stderr, and only once."""
    path = tmp_path / "net.onnx"
    path.write_bytes(graph)
    code = (
        "import sys\nfrom export.session import OnnxNetwork, cuda_problem\n"
        "print(*OnnxNetwork(sys.argv[1]).providers)\nassert cuda_problem()\n"
        "try:\n    OnnxNetwork(sys.argv[1], 'cuda')\nexcept Exception as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CPUExecutionProvider", "DeviceError"]
    assert done.stderr == ""


def test_the_reason_is_found_in_what_the_runtime_prints() -> None:
    """Real output of ONNX Runtime 1.31, paths shortened."""
    log = (
        "\x1b[1;31m2026-11-23 22:46:10.3 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : "
        "1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so "
        "with error: libcuda.so.1: cannot open shared "
        "object file: No such file or directory\n\x1b[m\nmore"
    )
    reason = export.session._reason
    assert reason(log) == "libcuda.so.1: cannot open shared object file: No such file or directory"
    assert reason("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=h ; file=f") == (
        "CUDA failure 100: no CUDA-capable device is detected"
    )


class _Exports:
    """Counts how often a graph is really exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = export.onnx.export_network

        def counted(*args: object, **kwargs: object) -> object:
            self.count += 1
            return original(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(export.onnx, "export_network", counted)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> _Exports:
    return _Exports(monkeypatch)


def _angles(victim: Stub) -> np.ndarray:
    return victim.networks["net"](torch.ones(1, 3, 8, 8), torch.ones(1, 2))[0].detach().numpy()


def test_a_graph_is_exported_once_and_then_read(tmp_path: Path, exports: _Exports) -> None:
    cache = OnnxCache(tmp_path / "cache")
    for _ in range(3):
        ready = authorised(Stub(), "cpu", cache)
        assert isinstance(ready.networks["net"], OnnxNetwork)
        assert _angles(ready) == pytest.approx(_angles(Stub()), abs=1e-5)
    assert exports.count == 1
    [file] = (tmp_path / "cache").iterdir()
    assert file.name.startswith("stub_net_")
    assert file.suffix == ".onnx"


def test_other_weights_are_another_graph(tmp_path: Path, exports: _Exports) -> None:
    """The file names and hashes that a victim states are alike here: the weights themselves decide."""
    cache = OnnxCache(tmp_path)
    for seed in (0, 1):
        victim = Stub(Net(seed))
        assert _angles(authorised(victim, "cpu", cache)) == pytest.approx(_angles(victim), abs=1e-5)
    assert exports.count == len(list(tmp_path.iterdir())) == 2


def test_a_damaged_or_foreign_file_in_the_cache_is_replaced(tmp_path: Path, exports: _Exports) -> None:
    cache = OnnxCache(tmp_path)
    authorised(Stub(), "cpu", cache)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    other = export.onnx.export_network(Stub(Net(1)), "net")[0]
    for content in (whole[: len(whole) // 2], b"", other):
        file.write_bytes(content)
        assert _angles(authorised(Stub(), "cpu", cache)) == pytest.approx(_angles(Stub()), abs=1e-5)
        assert file.read_bytes() == whole
    assert os.listdir(tmp_path) == [file.name]


def test_a_cache_that_cannot_be_written_or_read_is_done_without(tmp_path: Path, exports: _Exports) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")  # a folder cannot be made here, by root neither
    ready = authorised(Stub(), "cpu", OnnxCache(blocked / "onnx"))
    assert _angles(ready) == pytest.approx(_angles(Stub()), abs=1e-5)
    assert exports.count == 1
    assert blocked.read_text() == "in the way"


@CPU_ONLY
def test_an_unusable_device_is_refused_before_anything_is_exported(tmp_path: Path, exports: _Exports) -> None:
    with pytest.raises(DeviceError):
        authorised(Stub(), "cuda", OnnxCache(tmp_path / "cache"))
    assert exports.count == 0
    assert os.listdir(tmp_path) == []


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRSF_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "onnx"
    monkeypatch.delenv("DRSF_CACHE")
    assert cache_folder().parts[-2:] == ("drsf", "onnx")


def test_the_embedded_victims_read_the_same_through_it(tmp_path: Path) -> None:
    """Largest differences allowed: 0.05 px and 0.05 degrees."""
    image = astronaut()[:320, 100:420]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    victims = load_mtcnn(), CompactFan.load(), load_gaze("gaze-compact")
    cache = OnnxCache(tmp_path)
    detector, aligner, gaze = (authorised(victim, "cpu", cache) for victim in victims)
    frames = [_Still(0, 0.0, image), _Still(1, 0.1, mirrored)]
    expected = Observer(*victims).observe(frames)  # type: ignore[arg-type]
    found = Observer(detector, aligner, gaze).observe(frames)  # type: ignore[arg-type]
    assert [len(frame.faces) for frame in found] == [1, 1]
    for a, b in zip(expected, found, strict=True):
        [one], [other] = a.faces, b.faces
        assert one.landmarks is not None
        assert other.landmarks is not None
        assert one.gaze is not None
        assert other.gaze is not None
        assert np.abs(one.box - other.box).max() < 0.05
        assert np.abs(one.landmarks - other.landmarks).max() < 0.05
        assert angle_between_degrees(one.gaze, other.gaze) < 0.05
        assert one.score == pytest.approx(other.score, abs=1e-4)


@dataclass(frozen=True)
class _Still:
    index: int
    pts: float
    image: np.ndarray
