"""ONNX files of the victims, and the sessions that run them.

From 1.29 on, official builds of ONNX Runtime send their makers telemetry about the models that run: names, producers,
hashes of graphs and weights, times. drsf sends no telemetry: neither a private network's weights nor the fact that
somebody processes a video may leave the machine. So this module switches the telemetry off. It must do so before
anything imports ONNX Runtime, because later is too late for the first message (see its Privacy.md).
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
