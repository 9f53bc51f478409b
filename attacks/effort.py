"""How much work goes into a clip: the one place for what decides it, each with the measurement that chose it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

EffortName = Literal["fast", "normal", "best"]


@dataclass(frozen=True)
class Tuning:
    """How long the drawer is fitted to each stretch of a clip, and how far it may go (attacks/tuning.py)."""

    each: int
    """How often each face of the sample is read."""
    rate: float
    """Learning rate at its highest."""
    back: float
    """Of the gradient back to what the bundled drawer draws, at unit length for every grey level between them: that
    drawing was trained against strangers, and what is learnt here lets them read again."""
    shade: float = 1.6
    """How many times as strong the drawer's shade is made before."""
    sample: int = 48
    """Faces of the stretch that are learnt from."""

    def samples_of(self, faces: int) -> int:
        """How many are read of a sample of so many faces."""
        return self.each * faces


@dataclass(frozen=True)
class Correction:
    """How the steps of correction after the drawing are taken, and how they are spent (attacks/perturb.py)."""

    smoothing: float = 3.0
    """Sigma in px of the Gaussian that every gradient is smoothed with: energy goes where codecs keep it."""
    extra: int = 0
    """Further steps of a frame that is `attacks.perturb.POOR` after the others."""
    behind: float = 0.0
    """A victim whose error, in tolerances, is under this share of the worst one's does not push: the passes that it
    would cost bring more where they are needed. Models that are repelled push until they are apart."""
    cap: float = 0.45
    """Longest step, in units of the one that would bring the linearised loss to 0. Newton's is 1 for a loss that is a
    length near its end, and 2 for one that is a square; the victims' have parts of both."""
    tries: int = 0
    """How many points at and near the mean of start and iterates are tried at the end, as Polyak and Juditsky 1992
    average, the better iterates counting more: single ones scatter by the codec's noise, their mean comes back better
    than most of them, and of a few points near it one is luckier than the mean (docs/measurements/experiments.md)."""


@dataclass(frozen=True)
class Effort:
    """How the drawer is fitted, and how much the drawing is corrected."""

    steps: int
    """Gradient steps of every frame that is not good enough as it is drawn ..."""
    named_steps: int
    """... and where their rule was named with --attack."""
    batch: int
    """Frames that are worked on at once."""
    correction: Correction = Correction()
    tuning: Tuning | None = None
    """None: what is drawn is drawn by the bundled drawer."""
    live: bool = False
    """Whether each frame is tried on an encoder in the middle of the file, instead of as a coded crop."""


FIT = Tuning(each=6, rate=8e-4, back=1.0)
"""tests/benchmarks/frontier.py on 20 frames of the demo clip: IoU, NME, and the mean share of frames in which six
detectors that were trained against, and are not at hand, see the face. `shade` 0 0.959, 0.78 %, 68 %; 1 0.951,
0.76 %, 10 %; 1.6 0.953, 0.83 %, 1 %; 1.8 0.948, 0.86 %, 0 %; with 1.6,
`back` 0 0.957, 0.76 %, 18 %; 0.5 0.958, 0.80 %, 1 %."""

EFFORTS: Mapping[EffortName, Effort] = MappingProxyType(
    {
        # Read from the file at CRF 23, 100 frames of the demo clip, nothing repelled: IoU, NME, gaze
        # (docs/measurements/attack.md). 0.937, 1.24 %, 2.6 degrees
        "fast": Effort(steps=0, named_steps=0, batch=8),
        # 0.945, 0.86 %, 1.9 degrees; the fit took 8.6 passes a frame, and takes 0.6 in a whole minute
        "normal": Effort(steps=0, named_steps=3, batch=8, correction=Correction(extra=3, behind=0.25), tuning=FIT),
        # 50 frames: 0.968, 0.65 %, 1.0 degrees at 23.4 passes
        "best": Effort(
            steps=5, named_steps=5, batch=1, correction=Correction(extra=3, behind=0.5, tries=3), tuning=FIT, live=True
        ),
    }
)

_MESH, _MESH_FIT = Correction(smoothing=2.0, cap=0.5), replace(FIT, rate=1e-3, back=0.25)

MESH_EFFORTS: Mapping[EffortName, Effort] = MappingProxyType(
    {
        "fast": EFFORTS["fast"],
        # 15 frames of the talking clip as MediaPipe's client reads them in video mode, when BlazeFace's objective was
        # not yet what it is: 0.86 %, irises 0.81 px; two steps and `each` 8, 0.81 % and 0.77 px; three and 12, 0.81 %
        # and 0.76 px; a `cap` of 1 0.88 % and 0.86 px; `back` 0.1 0.83 %, 0.78 px; twice the rate 0.85 %, 0.79 px
        "normal": Effort(steps=3, named_steps=3, batch=2, correction=_MESH, tuning=_MESH_FIT),
        # 10 frames of the talking clip without the fit, as MediaPipe's client reads them in video mode: 0.88 % and
        # irises 0.8 px off at 33 passes; "normal", then of six steps, 1.02 % and 1.0 px at 17.5 (docs/victims.md)
        "best": Effort(
            steps=12, named_steps=12, batch=1, correction=replace(_MESH, extra=8, tries=3), tuning=_MESH_FIT, live=True
        ),
    }
)
"""For aligners of a whole mesh (`facemesh`), which has more points to be right.

With a `cap` of 1.4 the mesh swings between 2 and 13 % without end, with 0.5 it falls steadily (frame 70 of the talking
clip, from another chain's drawing, NME after 0, 6, 10, 15, 20 steps: 2.6, 1.9, 6.8, 1.6, 12.9 % and 2.6, 1.5, 1.3, 1.1,
1.0 %; with a smoothing of 2 px in place of 3, 2.6, 1.7, 1.0, 0.9, 0.7 %).
"""
