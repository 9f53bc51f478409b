"""RetinaFace against facexlib's, with the official mobilenet weights, on every frame of the street clip.

    python -m tests.benchmarks.retinaface_vs_facexlib [--every N]

Prints the number of frames and faces, frames in which the two disagree on the number of faces, the smallest IoU and the
largest difference of scores.
"""

from __future__ import annotations

import argparse

import av
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace as Facexlib

from tests.benchmarks.main_job import SHARED
from victims.boxes import iou
from victims.retinaface import THRESHOLD, load_retinaface


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="of so many frames, one")
    every = parser.parse_args().every
    torch.set_num_threads(1)
    ours = load_retinaface("retinaface", SHARED / "weights" / "retinaface_mobilenet0.25.pth")
    network = ours.networks["retinaface"]
    assert isinstance(network, torch.nn.Module)
    theirs = Facexlib("mobile0.25", device="cpu")
    theirs.load_state_dict(network.state_dict())

    frames = faces = unequal = 0
    lowest, furthest = 1.0, 0.0
    with av.open(str(SHARED / "data" / "street_1080p_audio.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % every:
                continue
            image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            (found,) = ours.detect([image])
            with torch.no_grad():
                expected = np.asarray(theirs.detect_faces(np.ascontiguousarray(image[..., ::-1]), THRESHOLD))
            frames += 1
            faces += len(expected)
            if len(found) != len(expected):
                unequal += 1
                print(f"frame {index}: {len(found)} faces, facexlib {len(expected)}")
            elif len(found):
                lowest = min(lowest, float(iou(found.boxes, expected[:, :4]).min()))
                furthest = max(furthest, float(np.abs(found.scores - expected[:, 4]).max()))
    print(
        f"{frames} frames, {faces} faces; frames with another number of faces: {unequal}; smallest IoU {lowest:.6f}; "
        f"largest difference of scores {furthest:.1e}"
    )


if __name__ == "__main__":
    main()
