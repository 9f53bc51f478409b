"""ONNX Runtime beside torch: speed of every victim network, and whether both read the same.

    python -m tests.benchmarks.onnx_vs_torch [--frames N] [--stride 1] [--batch 8] [--chains NAME...]
                                             [--clips NAME...] [--folder ../shared] [--json FILE]

Every chain of victims reads the same frames of the shared clips twice (all of them, unless told otherwise), as `infer`
does, batch by batch, the backend that goes first changing each time. Each call of a network is timed, on what it is
really fed while reading. Printed are the ratio of times ONNX / torch in that one run, wall and CPU, and the largest
differences of what was read. Victims whose weights are not at hand have random ones (seed 0), marked with `*`.

`mpiigaze` rounds eyes to 256 levels of grey before it spreads their histogram, as its authors do: a landmark that is
moved by a thousandth of a pixel carries some pixels over the edge of a level, and gaze jumps by some hundredths of a
degree. Its backends are therefore held to the limit on the same landmarks; what the whole chain differs by is printed
as well.

Random weights make two of them unfit for a comparison as they are. The maps of `fan` are noise, in which cells that
rival for the maximum differ by less than float32 can tell; of it those landmarks are compared that the maps decide:
whose maximum, and whose slope beside it, exceed twice the largest difference between the backends' maps. The others
are counted. `retinaface-resnet50` fires nearly everywhere or nowhere, with boxes beyond all bounds; its heads are
scaled to outputs of the usual size, and shifted so that 40 priors of the first named
clip's first frame pass the threshold, so give it one clip a run.
Then its boxes are compared as any detector's.

Exits with 1 where readings differ by more than 0.05 px or 0.05 degrees.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drsf_cli.media.reader import Frame, VideoReader
from export.session import OnnxCache, authorised
from tests.conftest import ROOT
from victims.base import Aligner, Detector, GazeEstimator, Image, Network, Victim, to_pixels
from victims.camera import Camera, angle_between_degrees
from victims.face import FrameObservation
from victims.fan import CompactFan, Fan, LastHeatmaps
from victims.gaze import GAZE_MODELS, NormalizedGaze, load_gaze
from victims.mtcnn import load_mtcnn
from victims.observe import Observer
from victims.retinaface import THRESHOLD, RetinaFace, load_retinaface, preprocess
from victims.retinaface_networks import resnet50_network

CLIPS = ("talking_720p.mp4", "street_1080p_audio.mp4")
PIXELS, DEGREES = 0.05, 0.05
"""Largest differences allowed."""

V = TypeVar("V", bound=Victim)


@dataclass
class Timed:
    """A network that counts what it costs."""

    network: Network
    wall: float = 0.0
    cpu: float = 0.0
    calls: int = 0
    keeps: bool = False
    kept: list[Tensor] = field(default_factory=list)
    """First outputs since they were last taken, where `keeps`."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = self.network(*inputs)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.calls += 1
        if self.keeps:
            self.kept.append(outputs[0].detach().cpu())
        return outputs

    def take(self) -> Tensor:
        taken, self.kept = torch.cat(self.kept), []
        return taken


@dataclass
class Difference:
    """Largest of each kind."""

    frames: int = 0
    faces: int = 0
    unlike: int = 0
    """Frames in which one backend sees another number of faces."""
    box: float = 0.0
    landmarks: float = 0.0
    gaze: float = 0.0
    far: int = 0
    """Faces whose gaze differs by more than DEGREES."""
    same: float | None = None
    """Gaze from the same landmarks, where that was looked at."""
    undecided: int = 0
    """Landmarks left out: rivals of the maximum that rounding could exchange."""
    maps: float = 0.0
    """Largest difference of heatmaps over their range, where they were looked at."""
    seconds: dict[str, float] = field(default_factory=lambda: {"torch": 0.0, "onnx": 0.0})

    def add(
        self, expected: FrameObservation, found: FrameObservation, decided: Iterator[NDArray] | None = None
    ) -> None:
        """`decided`: for each face in turn, (68,) bool: the landmarks that may be compared; None: all."""
        self.frames += 1
        if len(expected.faces) != len(found.faces):
            self.unlike += 1
            return
        for a, b in zip(expected.faces, found.faces, strict=True):
            self.faces += 1
            self.box = max(self.box, float(np.abs(a.box - b.box).max()))
            if a.landmarks is not None and b.landmarks is not None:
                chosen = np.ones(68, dtype=bool) if decided is None else next(decided)
                self.undecided += int((~chosen).sum())
                self.landmarks = max(self.landmarks, float(np.abs(a.landmarks - b.landmarks)[chosen].max(initial=0.0)))
            if a.gaze is not None and b.gaze is not None:
                angle = float(angle_between_degrees(a.gaze, b.gaze))
                self.gaze, self.far = max(self.gaze, angle), self.far + (angle > DEGREES)

    @property
    def within_limits(self) -> bool:
        gaze = self.gaze if self.same is None else self.same
        return not self.unlike and max(self.box, self.landmarks) <= PIXELS and gaze <= DEGREES


def chains(shared: Path, clip: str) -> dict[str, Callable[[], tuple[Detector, Aligner | None, GazeEstimator | None]]]:
    weights = shared / "weights"

    def random_gaze(name: str) -> NormalizedGaze:
        torch.manual_seed(0)
        return NormalizedGaze(name, GAZE_MODELS[name].network().eval(), {})

    def random_fan() -> Fan:
        from face_alignment.models import FAN

        torch.manual_seed(0)
        return Fan({"fan": LastHeatmaps(FAN(4)).eval()}, {})

    def random_resnet50() -> RetinaFace:
        torch.manual_seed(0)
        victim = RetinaFace("retinaface-resnet50", resnet50_network().eval(), {})
        like_a_trained_one(victim, next(iter(VideoReader(shared / "data" / clip))).image)
        return victim

    def mpiigaze() -> NormalizedGaze:
        return load_gaze("mpiigaze", weights / "mpiigaze_resnet_preact.pth")

    def retinaface() -> RetinaFace:
        return load_retinaface("retinaface", weights / "retinaface_mobilenet0.25.pth")

    return {
        "mtcnn/fan-compact/gaze-compact": lambda: (load_mtcnn(), CompactFan.load(), load_gaze("gaze-compact")),
        "retinaface/fan-compact/mpiigaze": lambda: (retinaface(), CompactFan.load(), mpiigaze()),
        "retinaface/fan-compact/eth-xgaze*": lambda: (retinaface(), CompactFan.load(), random_gaze("eth-xgaze")),
        "retinaface/fan-compact/mpiifacegaze*": lambda: (retinaface(), CompactFan.load(), random_gaze("mpiifacegaze")),
        "retinaface/fan*": lambda: (retinaface(), random_fan(), None),
        "retinaface-resnet50*": lambda: (random_resnet50(), None, None),
    }


def like_a_trained_one(victim: RetinaFace, image: Image, count: int = 40) -> None:
    """Give a random network the image's statistics, scale its heads to outputs with a standard deviation of 1 (boxes,
    points) and 3 (margins) there, and shift the class heads so that `count` priors pass the threshold."""
    network = victim.networks["retinaface"]
    with torch.no_grad():
        pixels = preprocess(to_pixels([image]))
        for module in network.modules():  # type: ignore[attr-defined]
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics of this one image
        network.train()(pixels[..., ::2, ::2])  # type: ignore[attr-defined]
        network.eval()  # type: ignore[attr-defined]
        loc, logits, points = network(pixels)
        spreads = {"BboxHead": loc, "ClassHead": (logits[..., 1] - logits[..., 0]) / 3, "LandmarkHead": points}
        for name, parameter in network.named_parameters():  # type: ignore[attr-defined]
            if name.split(".")[0] in spreads:
                parameter.div_(spreads[name.split(".")[0]].std())
        _, logits, _ = network(pixels)
        margins = (logits[0, :, 1] - logits[0, :, 0]).sort(descending=True).values
        shift = math.log(THRESHOLD / (1 - THRESHOLD)) - float(margins[count - 1 : count + 1].mean())
        for name, bias in network.named_parameters():  # type: ignore[attr-defined]
            if name.startswith("ClassHead") and name.endswith("bias"):
                bias[1::2] += shift


def main() -> int:
    parser = argparse.ArgumentParser(description="ONNX Runtime beside torch", allow_abbrev=False)
    parser.add_argument("--frames", type=int, help="of each clip; all unless given")
    parser.add_argument("--stride", type=int, default=1, help="every how manieth frame")
    parser.add_argument("--clips", nargs="*", default=CLIPS, help="some of the clips")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--chains", nargs="*", help="some of the chains, by any part of their names")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("DRSF_SHARED", ROOT.parent / "shared")))
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as a call through ONNX Runtime has
    table = chains(arguments.folder, arguments.clips[0])
    wanted = [name for name in table if not arguments.chains or any(part in name for part in arguments.chains)]
    figures: dict[str, object] = {"stride": arguments.stride, "batch": arguments.batch}
    good = True
    for name in wanted:
        good &= compare(name, table[name](), arguments, figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0 if good else 1


def compare(
    name: str,
    victims: tuple[Detector, Aligner | None, GazeEstimator | None],
    arguments: argparse.Namespace,
    figures: dict[str, object],
) -> bool:
    """Read all clips with both backends; print the table of this chain."""
    detector, aligner, gaze = victims

    def timed(victim: V) -> V:
        return victim.with_networks({key: Timed(network) for key, network in victim.networks.items()})

    def ready(victim: V) -> V:
        return timed(authorised(victim, "cpu", OnnxCache()))

    observers = {
        "torch": Observer(timed(detector), timed(aligner) if aligner else None, timed(gaze) if gaze else None),
        "onnx": Observer(ready(detector), ready(aligner) if aligner else None, ready(gaze) if gaze else None),
    }
    good = True
    peaks: list[Timed] = []
    if name.endswith("/fan*"):
        peaks = [counters(observer)["fan fan"] for observer in observers.values()]
    for network in peaks:
        network.keeps = True
    print(f"\n{name}")
    for clip in arguments.clips:
        difference = Difference()
        for turn, frames in enumerate(batches(arguments.folder / "data" / clip, arguments)):
            if turn == 0:  # memory, kernels and caches of both warm up
                for observer in observers.values():
                    observer.observe(frames)
                reset(observers)
                for network in peaks:
                    network.kept = []
            read: dict[str, list[FrameObservation]] = {}
            for backend in ("torch", "onnx") if turn % 2 else ("onnx", "torch"):
                start = time.perf_counter()
                read[backend] = observers[backend].observe(frames)
                difference.seconds[backend] += time.perf_counter() - start
            decided = None
            if peaks and peaks[0].kept:
                own, other = (network.take() for network in peaks)
                gap = float((own - other).abs().max())
                difference.maps = max(difference.maps, gap / float(own.max() - own.min()))
                decided = iter(decided_landmarks(own, gap))
            for expected, found in zip(read["torch"], read["onnx"], strict=True):
                difference.add(expected, found, decided)
            if gaze is not None and gaze.name == "mpiigaze":
                difference.same = max(difference.same or 0.0, on_same_landmarks(observers, frames, read["torch"]))
        good &= difference.within_limits
        undecided = ""
        if difference.same is not None:
            undecided = f" (over {DEGREES} in {difference.far}; from the same landmarks {difference.same:.2g} deg)"
        if peaks:
            undecided = f" ({difference.undecided} of {68 * difference.faces} undecided; maps {difference.maps:.1g})"
        print(
            f"  {clip}: {difference.frames} frames, {difference.faces} faces; largest difference box "
            f"{difference.box:.2g} px, landmarks {difference.landmarks:.2g} px, gaze {difference.gaze:.2g} deg"
            f"{undecided}{f'; ANOTHER NUMBER OF FACES in {difference.unlike}' if difference.unlike else ''}; "
            f"whole reading ONNX / torch {difference.seconds['onnx'] / difference.seconds['torch']:.2f}"
        )
        rows = ratios(observers)
        for key, (wall, cpu, calls, milliseconds) in rows.items():
            print(f"    {key:24} {calls:5d} calls of {milliseconds:8.2f} ms in torch; ratio {wall:.2f} (CPU {cpu:.2f})")
        figures[f"{name} {clip}"] = {
            "frames": difference.frames,
            "faces": difference.faces,
            "frames_with_another_number_of_faces": difference.unlike,
            "box_px": difference.box,
            "landmarks_px": difference.landmarks,
            "landmarks_undecided": difference.undecided,
            "heatmaps_relative": difference.maps,
            "gaze_degrees": difference.gaze,
            "gaze_over_limit": difference.far,
            "gaze_degrees_on_the_same_landmarks": difference.same,
            "whole_ratio": difference.seconds["onnx"] / difference.seconds["torch"],
            "networks": {key: {"ratio": row[0], "cpu_ratio": row[1], "calls": row[2]} for key, row in rows.items()},
        }
        reset(observers)
    return good


def on_same_landmarks(
    observers: dict[str, Observer], frames: Sequence[Frame], read: Sequence[FrameObservation]
) -> float:
    """Largest difference of gaze, degrees, when both backends are given the landmarks that torch read."""
    images = [frame.image for frame in frames]
    landmarks = [
        np.stack([face.landmarks for face in one.faces if face.landmarks is not None])
        if one.faces
        else np.zeros((0, 68, 2))
        for one in read
    ]
    camera = Camera.default(images[0].shape[1], images[0].shape[0])
    vectors = []
    for observer in observers.values():
        assert observer.gaze is not None
        vectors.append(np.concatenate([one for one, _ in observer.gaze.estimate(images, landmarks, camera)]))
    return max((float(angle_between_degrees(a, b)) for a, b in zip(*vectors, strict=True)), default=0.0)


def decided_landmarks(maps: Tensor, gap: float) -> NDArray[np.bool_]:
    """(N, 68): whether maps (N, 68, h, w) that may be off by `gap` decide where `fan` puts the landmark."""
    flat = maps.flatten(2)
    top, places = flat.topk(2, dim=2)
    decided = top[..., 0] - top[..., 1] > 2 * gap
    width, height = maps.shape[3], maps.shape[2]
    column, line = places[..., 0] % width, places[..., 0] // width
    inner = (column > 0) & (column < width - 1) & (line > 0) & (line < height - 1)
    at = places[..., 0].clamp(width, width * (height - 1) - 1)
    for step in (1, width):
        slope = (flat.gather(2, (at + step)[..., None]) - flat.gather(2, (at - step)[..., None]))[..., 0]
        decided &= ~inner | (slope.abs() > 2 * gap)
    return decided.numpy()


def batches(clip: Path, arguments: argparse.Namespace) -> Iterator[Sequence[Frame]]:
    end = None if arguments.frames is None else arguments.frames * arguments.stride
    chosen = islice(VideoReader(clip), 0, end, arguments.stride)
    while batch := list(islice(chosen, arguments.batch)):
        yield batch


def counters(observer: Observer) -> dict[str, Timed]:
    return {
        f"{victim.name} {key}": network
        for victim in observer.victims.values()
        for key, network in victim.networks.items()
        if isinstance(network, Timed)
    }


def reset(observers: dict[str, Observer]) -> None:
    for observer in observers.values():
        for network in counters(observer).values():
            network.wall, network.cpu, network.calls = 0.0, 0.0, 0


def ratios(observers: dict[str, Observer]) -> dict[str, tuple[float, float, int, float]]:
    """Network -> wall ratio, CPU ratio, calls, milliseconds a call in torch."""
    mine, other = counters(observers["onnx"]), counters(observers["torch"])
    return {
        key: (
            mine[key].wall / other[key].wall,
            mine[key].cpu / max(other[key].cpu, 1e-9),
            other[key].calls,
            1000 * other[key].wall / other[key].calls,
        )
        for key in mine
        if other[key].calls
    }


if __name__ == "__main__":
    sys.exit(main())
