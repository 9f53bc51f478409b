"""Face finders that read through an ONNX file of the user's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from drsf_cli.readers.finders import FaceFinder
from export.session import OnnxNetwork
from victims.base import Image
from victims.boxes import suppress
from victims.face import Detections
from weights.errors import InputError

ULTRAFACE_THRESHOLD, ULTRAFACE_OVERLAP = 0.7, 0.3
YUNET_THRESHOLD = 0.6


def yunet(path: Path) -> FaceFinder:
    """A network of OpenCV's FaceDetectorYN. Raises InputError for another file."""
    try:
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), YUNET_THRESHOLD)
        detector.detect(np.zeros((320, 320, 3), np.uint8))  # only a run shows whether the file is such a network
    except cv2.error as error:
        raise InputError(
            f"{path} is not a detector that OpenCV's FaceDetectorYN can run; get the file again."
        ) from error

    def find(image: Image) -> Detections:
        detector.setInputSize((image.shape[1], image.shape[0]))
        _, found = detector.detect(np.ascontiguousarray(image[..., ::-1]))
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)
        rows = rows[np.argsort(-rows[:, 14])]
        return Detections(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, 14])

    return find


def ultraface(path: Path) -> FaceFinder:
    """A detector of Ultra-Light-Fast-Generic-Face-Detector's form. Raises InputError for another file.

    One input (1, 3, h, w), RGB, (x - 127) / 128; outputs (1, n, 2) scores, softmaxed, and (1, n, 4) corners in
    shares of width and height (Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB).
    """
    network = OnnxNetwork(path)
    sizes = network.input_shapes[0]
    if len(network.input_shapes) != 1 or len(sizes) != 4 or not all(isinstance(side, int) for side in sizes[2:]):
        raise InputError(f"{path} takes inputs of shape {sizes}, which is not ultraface's form (1, 3, h, w).")
    height, width = (int(side) for side in sizes[2:])

    def find(image: Image) -> Detections:
        small = cv2.resize(image, (width, height)).astype(np.float32)
        values = torch.from_numpy((small - 127.0) / 128.0).permute(2, 0, 1)[None].contiguous()
        outputs = {output.shape[-1]: output[0].double() for output in network(values) if output.ndim == 3}
        if set(outputs) != {2, 4}:
            raise InputError(f"{path} does not output scores (1, n, 2) and boxes (1, n, 4) as ultraface does.")
        scores = outputs[2][:, 1]
        passed = scores > ULTRAFACE_THRESHOLD
        extent = image.shape[1::-1] * 2
        boxes, scores = outputs[4][passed] * torch.tensor(extent, dtype=torch.float64), scores[passed]
        kept = suppress(boxes.numpy(), scores.numpy(), ULTRAFACE_OVERLAP)
        return Detections(boxes.numpy()[kept], scores.numpy()[kept])

    return find
