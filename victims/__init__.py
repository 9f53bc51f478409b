"""The models that are to read the output: networks, crops, decoding, and losses differentiable in pixels."""
