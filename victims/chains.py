"""Names of chains of victims: what `--chain` takes. Nothing heavy is imported here, so that a shell can complete."""

from __future__ import annotations

from typing import NamedTuple

from weights.errors import UsageError


class Chain(NamedTuple):
    """The three victims of a chain, by their names in `victims.registry`."""

    detector: str
    aligner: str
    gaze: str


CHAINS: dict[str, Chain] = {
    "default": Chain("mtcnn", "fan-compact", "gaze-compact"),
    "mediapipe": Chain("blazeface", "facemesh", "iris"),
    "hcmus": Chain("retinaface", "fan", "eth-xgaze"),
}
"""`default` needs no weights but those that come with drsf; `hcmus` is that of the original implementation."""


def find_chain(name: str) -> Chain:
    """The chain typed as `name`. Raises UsageError with the valid names."""
    chain = CHAINS.get(name.strip().lower())
    if chain is None:
        raise UsageError(f"--chain {name} is unknown; it takes {', '.join(CHAINS)}.")
    return chain
