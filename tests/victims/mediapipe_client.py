"""Run by an unmodified MediaPipe: what its client reads from frames, `python mediapipe_client.py FRAMES.npz OUT.npz`.

FRAMES.npz holds arrays (H, W, 3) uint8 RGB. OUT.npz holds `mesh` and `video` (n, 478, 3) px of FaceMesh, refined, in
static and in video mode, and `short` and `full` (n, 4) px of FaceDetection's best box; NaN where nothing is found.
"""

import sys

import mediapipe
import numpy as np


def read(frames):
    solutions = mediapipe.solutions
    meshes = {name: np.full((len(frames), 478, 3), np.nan) for name in ("mesh", "video")}
    boxes = {name: np.full((len(frames), 4), np.nan) for name in ("short", "full")}
    for name, selection in (("short", 0), ("full", 1)):
        with solutions.face_detection.FaceDetection(model_selection=selection) as detector:
            for row, frame in enumerate(frames):
                height, width = frame.shape[:2]
                found = detector.process(frame).detections
                if found:
                    box = max(found, key=lambda one: one.score[0]).location_data.relative_bounding_box
                    corners = (box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height)
                    boxes[name][row] = np.array(corners) * [width, height, width, height]
    for name, mesh in meshes.items():
        with solutions.face_mesh.FaceMesh(static_image_mode=name == "mesh", refine_landmarks=True) as network:
            for row, frame in enumerate(frames):
                height, width = frame.shape[:2]
                found = network.process(frame).multi_face_landmarks
                if found:
                    points = [(point.x, point.y, point.z) for point in found[0].landmark]
                    mesh[row] = np.array(points) * [width, height, width]
    return {**meshes, **boxes}


if __name__ == "__main__":
    with np.load(sys.argv[1]) as pictures:
        answers = read([np.ascontiguousarray(pictures[name]) for name in pictures.files])
    np.savez(sys.argv[2], **answers)
