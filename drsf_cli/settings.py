"""Everything that decides what a run writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.device import Device

OnNoFace = Literal["refuse", "solid", "copy"]


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
    attack: str = "sgd"
    attack_options: tuple[str, ...] = ()
    """`key=value` of the step rule."""
    mask: str = "pixelate_5"
    eps: str = "24/255"
    max_iter: int | None = None
    """Limit of steps for the first frame; None: the method's own."""
    warm_iter: int | None = None
    """Limit of steps for every other frame; None: what 12 victim passes allow and at least 2; 6 for a lossless codec,
    where more of them still help."""
    robust: bool = False
    """Embed for other qualities, JPEG and other sizes too: what is embedded outlives a transcoding better."""
    segment: float = 60.0
    """Seconds of the file's clock after which embedding starts from nothing again, so that what lies between can be
    done by itself (drsf_cli/deid/segments.py). Nobody covers by segments."""
    refine: int = 1
    """How often frames that fall short in the written file may go back."""
    batch_size: int = 1
    """Frames that are worked on at once. Of more than one through a lossy codec, each is kept as it was best, while the
    codec saw it beside other states of its neighbours."""
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
    flat["camera"] = None if settings.camera is None else str(settings.camera)
    return flat
