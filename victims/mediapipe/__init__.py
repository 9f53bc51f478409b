"""MediaPipe's face pipeline: the models that its Python client up to 0.10.21 runs."""
