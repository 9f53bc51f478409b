"""Run by an unmodified MediaPipe, as researchers do: `python mediapipe_video.py CLIP OUT.npz [SECONDS]`.

OpenCV decodes the clip, up to SECONDS. OUT.npz holds `static` and `video` (n, 478, 3), px of the frame: what FaceMesh
with refined landmarks reads with static_image_mode=True and False; NaN where it finds no face.
"""

import sys

import cv2
import mediapipe
import numpy as np


def frames(path, seconds):
    clip = cv2.VideoCapture(path)
    rate = clip.get(cv2.CAP_PROP_FPS)
    index = 0
    while index < seconds * rate:
        there, frame = clip.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        index += 1


def read(path, static, seconds):
    meshes = []
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=static, refine_landmarks=True) as network:
        for frame in frames(path, seconds):
            height, width = frame.shape[:2]
            found = network.process(frame).multi_face_landmarks
            mesh = np.full((478, 3), np.nan)
            if found:
                mesh = np.array([(point.x, point.y, point.z) for point in found[0].landmark])
            meshes.append(mesh * [width, height, width])
    return np.array(meshes).reshape(-1, 478, 3)


if __name__ == "__main__":
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")
    np.savez(sys.argv[2], static=read(sys.argv[1], True, seconds), video=read(sys.argv[1], False, seconds))
