"""Everything that decides what a run writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.device import Device

OnNoFace = Literal["refuse", "solid", "copy"]
Shape = Literal["own", "average"]


@dataclass(frozen=True)
class VictimNames:
    """What is named on the command line: `NAME` or `NAME@FILE`."""

    detector: str = "mtcnn"
    aligner: str | None = "fan-compact"
    gaze: str | None = "gaze-compact"

    def replaced(self, detector: str | None, aligner: str | None, gaze: str | None) -> VictimNames:
        """With what was typed: None leaves a name as it is, `none` leaves the victim out."""

        def optional(typed: str | None, known: str | None) -> str | None:
            if typed is None:
                return known
            return None if typed.strip().lower() == "none" else typed

        return VictimNames(detector or self.detector, optional(aligner, self.aligner), optional(gaze, self.gaze))


@dataclass(frozen=True)
class DeidSettings:
    """Everything that decides what `deidentify` writes. Values are as typed on the command line."""

    victims: VictimNames = field(default_factory=VictimNames)
    attack: str | None = None
    """The rule of the steps; None: DEFAULT_RULE, where there are any; `none`: nothing is embedded."""
    attack_options: tuple[str, ...] = ()
    """`key=value` of the step rule."""
    mask: str = "pixelate_5"
    eps: str = "24/255"
    effort: str = "normal"
    """How far what is drawn is corrected: `fast` not at all, `normal` by about a step a frame, `best` through the
    encoder in the middle of the file (attacks/effort.py)."""
    drawer: Path | None = None
    """Weights of the drawer; None: those bundled for the detector, or the nearest."""
    segment: float = 60.0
    """Seconds of the file's clock after which the encoder starts afresh, so that what lies between can be done by
    itself (drsf_cli/deid/segments.py). Covering is planned over the whole clip."""
    batch_size: int | None = None
    """Frames that are worked on at once; None: the effort's own number."""
    codec: str = "h264"
    crf: int = 23
    preset: str = "medium"
    head_qp: int = -4
    """Added to the quantiser of H.264 where attributes are embedded: a mosaic is cheap to code, and what is drawn on it
    is faint."""
    keep_audio: bool = False
    start: float | None = None
    end: float | None = None
    camera: Path | None = None
    device: Device = "auto"
    threads: int | None = None
    """Cores that torch computes on; None: as many as it takes by itself. Sums are split among them, so an attack ends
    elsewhere with another number; what is read through ONNX Runtime does not depend on it."""
    allow_unknown_weights: bool = False
    max_gap: float = 1.0
    """Seconds without a sighting through which a track is interpolated; beyond, the last head stays covered."""
    on_no_face: OnNoFace = "refuse"
    regions: tuple[str, ...] = ()
    """`x1,y1,x2,y2[@start-end]` to cover as well."""
    cover_detectors: tuple[str, ...] = ()
    """Detectors that cover beside the one embedded for; none named: those at hand."""
    embed: str = "largest"
    """Whose attributes are embedded: `largest` of each frame (docs/measurements/faces.md says which that is); `x,y` px:
    the face nearest to that point; or `all` that are seen for long enough."""
    targets: Path | None = None
    """Attributes to be embedded in place of those that are read of the original: a file of the form that `drsf infer`
    writes. It says whose they are, too: frames and faces without an entry get none."""
    shape: Shape = "own"
    """Whose proportions the embedded landmarks have: those of each face, or of the average one, by which nobody is
    known (drsf_cli/deid/shape.py)."""
    keep_failed: bool = False
    """Keep an output that failed its audit; its report says so."""
    max_error: float | None = None
    """Fail when a frame's recovered error is over this many times its tolerance."""
    overwrite: bool = False
    html: bool = False
    """Write the page of the report, too."""
    repel: tuple[str, ...] = ("all",)
    """Models that are to read nothing: names, `NAME@FILE`, `all` at hand that are not authorised, or `none`. All is the
    default: it costs about a third more passes and hardly any fidelity (docs/measurements/leakage.md)."""
    audit: str = "file"
    """`file`: of the written file; `full`: of what others can read as well."""


def settings_to_dict(settings: DeidSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    flat = asdict(settings)
    for name in ("camera", "drawer", "targets"):
        flat[name] = None if flat[name] is None else str(flat[name])
    return flat
