"""Everything that decides what a run writes, checked when it is made.

No settings object exists with a value that is not allowed: the command line, a TOML file, a manifest, Python,
`dataclasses.replace` and a cluster's worker that unpickles one all go through `__post_init__`. What a text means
(`mask`, `eps`, `attack`, `embed`, `regions`) is parsed here too, by the room below that it concerns.

Those rooms import torch, so they are imported when a settings object is made: help and completion need not wait.
"""

# ruff: noqa: RUF009 - `limited` is a dataclass field

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from attacks.effort import EFFORTS, MESH_EFFORTS, Effort, EffortName
from attacks.names import CODECS, CRF, FOCUS_QP
from drsf_cli.limits import (
    Check,
    Limited,
    instance_of,
    limited,
    number,
    one_of,
    optional,
    path,
    switch,
    text,
    texts,
    whole,
)
from export.device import DEVICES, Device
from victims.chains import CHAINS, find_chain
from victims.registry import resolve
from weights.errors import UsageError

if TYPE_CHECKING:
    from attacks.obscure import Obscuring
    from attacks.perturb import AttackSettings
    from victims.base import Role
    from victims.drawn_regions import ManualRegion

DEFAULT_RULE = "sgd"
"""The rule of steps where none is named (docs/measurements/earlier-engine.md compares them)."""
OnNoFace = Literal["refuse", "solid", "copy"]
Rotation = Literal["0", "90", "180", "270", "auto"]
Audio = Literal["drop", "copy", "aac"]
"""What becomes of the sound: none is written, packets are copied unchanged, or it is coded as AAC."""
Shape = Literal["own", "average"]
Audit = Literal["file", "full"]
Whose = Literal["largest", "all"] | tuple[float, float]
"""Whose attributes are embedded: the largest face of each frame, every one, or the one nearest to a point, px."""


def _victim(role: Role) -> Check:
    return text(f"the name of a {role}, NAME or NAME@FILE", lambda value: resolve(value, role))


def _mask(value: str) -> Obscuring:
    from attacks.obscure import parse_obscuring

    return parse_obscuring(value)


def _eps(value: str) -> float:
    from attacks.budget import parse_eps

    return parse_eps(value)


def _attack(value: str) -> tuple[str, dict[str, float]] | None:
    """(method, its options) of `NAME` or `NAME:KEY=VALUE,...`; None for `none`."""
    from attacks.steps import find_method, parse_options

    name, colon, options = value.partition(":")
    if name.strip().lower() == "none" and not colon:
        return None
    name, _ = find_method(name)
    return name, parse_options(name, options.split(",") if colon else ())


def _region(value: str) -> ManualRegion:
    from victims.drawn_regions import parse_region

    return parse_region(value)


def _whose(value: str) -> Whose:
    word = value.strip().lower()
    if word == "largest":
        return "largest"
    if word == "all":
        return "all"
    try:
        x, y = (float(part) for part in word.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise UsageError(f"{value!r} is not allowed; it takes largest, all or a point x,y in px.")
    return x, y


@dataclass(frozen=True)
class VictimNames(Limited):
    """The victims of a run, each `NAME` or `NAME@FILE`. Raises UsageError for a name that its role does not have."""

    detector: str = limited(CHAINS["default"].detector, _victim("detector"), "-d")
    aligner: str | None = limited(CHAINS["default"].aligner, optional(_victim("aligner")), "-a")
    gaze: str | None = limited(CHAINS["default"].gaze, optional(_victim("gaze")), "-z")

    @classmethod
    def of_chain(cls, name: str) -> VictimNames:
        """Those of a chain of `victims.chains`. Raises UsageError for an unknown one."""
        return cls(*find_chain(name))

    @property
    def reads_mesh(self) -> bool:
        """Whether what the aligner reads is more than 68 landmarks."""
        return self.aligner is not None and resolve(self.aligner, "aligner")[0] == "facemesh"

    def replaced(
        self, detector: str | None, aligner: str | None, gaze: str | None, chain: str | None = None
    ) -> VictimNames:
        """With what was typed: None leaves a name as it is, `none` leaves the victim out.

        `chain` replaces all three before the others do. Raises UsageError for an unknown one.
        """
        known = self if chain is None else self.of_chain(chain)

        def optional(typed: str | None, known: str | None) -> str | None:
            if typed is None:
                return known
            return None if typed.strip().lower() == "none" else typed

        return VictimNames(detector or known.detector, optional(aligner, known.aligner), optional(gaze, known.gaze))


@dataclass(frozen=True)
class DeidSettings(Limited):
    """Everything that decides what `deidentify` writes. Values are as typed on the command line.

    Raises UsageError, which names the field and what it takes, for any value that is not allowed.
    """

    victims: VictimNames = limited(None, instance_of(VictimNames), factory=VictimNames)
    attack: str | None = limited(
        None, optional(text("none or a step rule, NAME or NAME:KEY=VALUE,...", _attack)), "--attack"
    )
    """`none`, or a step rule with parameters of its own: `sgd`, `sgd:lr=0.2,momentum=0.5`; None: DEFAULT_RULE, where
    the effort takes steps."""
    mask: str = limited("pixelate_5", text("a mask such as pixelate_N, blur_N or solid", _mask), "--mask")
    eps: str = limited("24/255", text("a text such as 16/255 or 0.06", _eps), "--eps")
    """Largest change of a pixel, of 1."""
    effort: EffortName = limited("normal", one_of(*EFFORTS), "--effort")
    """`fast`: the bundled drawer draws. `normal`: it is fitted to a sample of each segment first, and frames that still
    read badly take steps; with `attack` named, all take three. `best`: it is fitted, and every frame takes steps, each
    tried on the video encoder itself (attacks/effort.py)."""
    drawer: Path | None = limited(None, optional(path), "--drawer")
    """Weights of the drawer, before it is fitted; None: those bundled for the detector, or the nearest."""
    segment: float = limited(60.0, number(0, "seconds", above=True))
    """Seconds of the file's clock after which the encoder starts afresh and the drawer is fitted anew, so that each
    segment can be processed independently (drsf_cli/deid/segments.py). Covering is planned over the whole clip."""
    batch_size: int | None = limited(None, optional(whole(1)), "--batch-size")
    """Frames that are worked on at once; None: the effort's own number."""
    codec: str = limited("h264", one_of(*CODECS), "--codec")
    crf: int = limited(23, whole(*CRF, "best to worst"), "--crf")
    head_qp: int = limited(-4, whole(*FOCUS_QP, "finest to as the rest"))
    """Added to H.264's quantiser where attributes are embedded. Below 0 is finer: the perturbation is faint, and the
    mosaic under it takes few bits anyway."""
    audio: Audio = limited("drop", one_of(*get_args(Audio)), "--audio")
    start: float | None = limited(None, optional(number(0, "seconds")), "--start")
    end: float | None = limited(None, optional(number(0, "seconds", above=True)), "--end")
    """Frames with start <= time < end are read; seconds of the file's clock."""
    fps: float | None = limited(None, optional(number(0, "frames a second", above=True)), "--fps")
    """Frames a second of pictures and of streams that have no clock; None: what these name, else 25."""
    camera: Path | None = limited(None, optional(path), "--camera")
    device: Device = limited("auto", one_of(*DEVICES), "--device")
    threads: int | None = limited(None, optional(whole(1)), "--threads")
    """Cores to work on; None: all that this process may run on. Frames, looks and networks are shared among them, each
    on one thread (victims/crew.py), so the output does not depend on their number. The threads of torch belong to the
    process: the command and a cluster's workers set one, `deidentify` does not, and torch may split sums among more,
    after which another, equally good perturbation comes out."""
    allow_unknown_weights: bool = limited(False, switch, "--allow-unknown-weights")
    max_gap: float = limited(1.0, number(0, "seconds"))
    """Seconds without a sighting through which a track is interpolated; beyond, the last head stays covered."""
    on_no_face: OnNoFace = limited("refuse", one_of("refuse", "solid", "copy"), "--on-no-face")
    min_face: float = limited(0.05, number(0, "px, or a share of the shorter side below 1", above=True), "--min-face")
    """The smallest face that is looked for in every quarter turn and across the border: px from 1 on, below 1 a share
    of the frame's shorter side (drsf_cli/readers/around.py). Upright faces are sought from 20 px on in any case."""
    rotate: Rotation = limited("0", one_of(*get_args(Rotation)), "--rotate")
    """By how many degrees clockwise the frames are turned before all else, and written: 0, 90, 180, 270 or `auto`."""
    regions: tuple[str, ...] = limited((), texts("x1,y1,x2,y2[@start-end]", _region), "--region")
    """`x1,y1,x2,y2[@start-end]` to cover as well."""
    cover_detectors: tuple[str, ...] = limited((), texts("the name of a detector", _victim("detector")))
    """Detectors that cover beside the one embedded for; none named: those at hand."""
    embed: str = limited("largest", text("largest, all or a point x,y in px", _whose), "--embed")
    """Whose attributes are embedded: `largest` of each frame (docs/measurements/faces.md says which that is); `x,y` px:
    the face nearest to that point; or `all` that are seen for long enough."""
    targets: Path | None = limited(None, optional(path), "--targets")
    """A file of attributes, in the form that `drsf infer` writes, to embed in place of those read in the original. In
    frames without an entry, and for faces without one, nothing is embedded."""
    shape: Shape = limited("own", one_of(*get_args(Shape)), "--shape")
    """Whose proportions the embedded landmarks have: each person's `own`, or those of the `average` face
    (drsf_cli/deid/shape.py). Head pose is kept, and still tells people apart a little (docs/threat-model.md)."""
    keep_failed: bool = limited(False, switch)
    """Keep an output that failed its audit. The report says that it failed."""
    max_error: float | None = limited(None, optional(number(0, above=True)))
    """Raise FidelityError if an error of any frame is more than this many times its tolerance."""
    overwrite: bool = limited(False, switch, "--overwrite")
    html: bool = limited(False, switch, "--html")
    """Write the page of the report, too."""
    repel: tuple[str, ...] = limited(("all",), texts("the name of a model, all or none"), "--repel")
    """Models that should read nothing: names, `NAME@FILE`, `all` that are installed and not authorised, or `none`. They
    push while the drawer is fitted, and in steps; `fast` has neither and repels none. Repelling costs passes and a
    little accuracy."""
    audit: Audit = limited("file", one_of("file", "full"))
    """`file`: audit the written file; `full`: also measure what other models read from it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack is not None and _attack(self.attack) is not None and self.effort_settings.named_steps == 0:
            with self.named("attack"):
                raise UsageError(f"{self.attack!r} is a rule of steps; effort {self.effort} takes none, leave it out.")
        if self.targets is not None and self.embed != "largest":
            with self.named("embed"):
                raise UsageError("--targets says itself whose attributes are embedded; leave one of the two out.")
        if self.shape == "average" and self.victims.aligner is None:
            with self.named("shape"):
                raise UsageError("it is for landmarks, and none are embedded without an aligner; name one with -a.")
        if self.shape == "average" and self.victims.reads_mesh:
            with self.named("shape"):
                raise UsageError(
                    "it averages 68 landmarks, and the 478 points of facemesh would still have the person's own shape; "
                    "name another aligner with -a."
                )
        for name in ("targets", "shape"):
            if getattr(self, name) not in (None, "own") and self.attack_settings is None:
                with self.named(name):
                    raise UsageError("it is for what is embedded, and attack none embeds nothing; leave one out.")
        if self.start is not None and self.end is not None and self.end <= self.start:
            with self.named("end"):
                raise UsageError(f"{self.end} is not after start, {self.start}; give a later end.")

    # -- what the texts mean ----------------------------------------------------------------------------------------

    @cached_property
    def obscuring(self) -> Obscuring:
        """What hides a head."""
        return _mask(self.mask)

    @cached_property
    def whose(self) -> Whose:
        """Whose attributes are embedded."""
        return _whose(self.embed)

    @cached_property
    def manual_regions(self) -> list[ManualRegion]:
        """What to cover beside heads."""
        return [_region(one) for one in self.regions]

    @cached_property
    def attack_settings(self) -> AttackSettings | None:
        """How perturbations are made; None where nothing is embedded."""
        from attacks.perturb import AttackSettings

        chosen, effort = _attack(self.attack or DEFAULT_RULE), self.effort_settings
        if chosen is None:
            return None
        name, options = chosen
        steps = effort.steps if self.attack is None else effort.named_steps
        return AttackSettings(name, _eps(self.eps), steps, options, effort.correction)

    @property
    def takes_steps(self) -> bool:
        """Whether victims are read for a gradient, by the fit or by steps, which is also when models are repelled."""
        effort = self.effort_settings
        return self.attack_settings is not None and (effort.named_steps > 0 or effort.tuning is not None)

    @property
    def effort_settings(self) -> Effort:
        """How much work goes into a clip."""
        return (MESH_EFFORTS if self.victims.reads_mesh else EFFORTS)[self.effort]

    @property
    def frames_at_once(self) -> int:
        """Frames that are worked on together."""
        return self.batch_size or self.effort_settings.batch

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and unwise, a sentence each."""
        weak = self.obscuring.warning()
        return () if weak is None else (f"mask (--mask): {weak}",)


def settings_to_dict(settings: DeidSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    flat = asdict(settings)
    for name in ("camera", "drawer", "targets"):
        flat[name] = None if flat[name] is None else str(flat[name])
    return flat


def settings_from_dict(flat: Mapping[str, Any]) -> DeidSettings:
    """What `settings_to_dict` wrote, from JSON; settings of other versions of drsf are left out.

    Raises UsageError for a value that is not allowed.
    """
    known = {one.name for one in fields(DeidSettings)}
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in flat.items() if key in known
    }
    if isinstance(given.get("victims"), Mapping):
        roles = {one.name for one in fields(VictimNames)}
        given["victims"] = VictimNames(**{role: name for role, name in given["victims"].items() if role in roles})
    for name in ("camera", "drawer", "targets"):
        if isinstance(given.get(name), str):
            given[name] = Path(given[name])
    return DeidSettings(**given)
