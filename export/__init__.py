"""ONNX files of the victims, and the sessions that run them.

Official builds of ONNX Runtime, from 1.29 on, tell their makers which models run: names, producers, hashes of graphs
and weights, times. Neither a private network's weights nor that somebody works on a video is to leave the machine, so
that is switched off, before ONNX Runtime is imported by anything: later is too late for its first message (its
Privacy.md).
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
