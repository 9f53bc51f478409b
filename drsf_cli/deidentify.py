"""The deid pipeline: what `drsf deid` does to one video.

    survey    read the original, see and track every face, take the targets
    cover     plan what each frame must hide, missed detections included
    embed     obscure, perturb, write to a temporary file
    verify    read that file back as an authorised reader does; frames that fall short go back
    audit     check the file itself: form, hidden regions, uncovered faces
    publish   rename into place with the report beside it

Output frames are built from obscured frames alone. Whatever goes wrong before `publish` leaves no output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from attacks.budget import parse_eps
from attacks.codec import CODECS, DeliveryCodec, find_codec
from attacks.embed import TOLERANCES, Embedded, Embedder, Target
from attacks.obscure import (
    Obscuring,
    Region,
    obscure,
    parse_obscuring,
    plan_regions,
    region_mask,
    warning,
    whole_frame,
)
from attacks.perturb import AttackSettings
from attacks.repel import Repeller
from attacks.steps import find_method, parse_options
from drsf_cli.atomic import AtomicOutput, publish_together
from drsf_cli.audit import AuditReport, audit_file, finders_at_hand
from drsf_cli.covering import see_all
from drsf_cli.evaluate import Evaluation, FrameErrors, evaluate
from drsf_cli.identity import IdentityMeter, find_recogniser
from drsf_cli.leakage import Covered, measure
from drsf_cli.models import Models, VictimNames
from drsf_cli.outsiders import Outsider, outsiders_at_hand, repelled_victims
from drsf_cli.progress import Progress, Silent, runs
from drsf_cli.report import render_html, sample, sample_ids
from drsf_cli.versions import versions
from drsf_cli.video import Frame, VideoInfo, VideoReader, Writer, encoder_settings, open_writer
from export.session import Device
from victims.base import Detector, Image
from victims.camera import Camera
from victims.face import Array, Detections, FrameObservation
from victims.observe import Observer
from victims.track import CoverBox, add_regions, cover_boxes, link, parse_region
from weights.errors import AuditError, FidelityError, NoFaceError, OutputError, UsageError

OnNoFace = Literal["refuse", "solid", "copy"]

FLOOR_RUNS, FLOOR_LENGTH = 4, 8
"""The codec's noise floor is measured on this many runs of this many frames."""
FLOOR_STEP, SHOWN_STEP = "Measuring the codec's own noise", "Reading what is obscured only"
"""Steps that look at a few frames only, however long the clip is."""


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
    warm_iter: int = 3
    """Limit of steps for every other frame."""
    robust: bool = False
    """Embed for other qualities, JPEG and other sizes too: what is embedded outlives a transcoding better."""
    refine: int = 1
    """How often frames that fall short in the written file may go back."""
    batch_size: int = 2
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
    """Whose attributes are embedded: `largest`, or `x,y` px: the face nearest to that point."""
    keep_failed: bool = False
    """Keep an output that failed its audit; its report says so."""
    max_error: float | None = None
    """Fail when a frame's recovered error is over this many times its tolerance."""
    overwrite: bool = False
    html: bool = False
    """Write the page of the report, too."""
    repel: tuple[str, ...] = ("all",)
    """Models that are to read nothing: names, `NAME@FILE`, `all` at hand that are not authorised, or `none`. All is the
    default: it costs about a third more passes and hardly any fidelity (docs/leakage.md)."""
    audit: str = "file"
    """`file`: of the written file; `full`: of what others can read as well."""


@dataclass(frozen=True)
class _Plan:
    """Settings, parsed and checked."""

    obscuring: Obscuring
    attack: AttackSettings | None
    point: tuple[float, float] | None
    warnings: tuple[str, ...]
    """What is allowed and unwise, a sentence each."""


def check(settings: DeidSettings) -> _Plan:
    """Parse what the settings say. Raises UsageError naming the flag."""
    for flag, value, low in (
        ("--batch-size", settings.batch_size, 1),
        ("--max-iter", settings.max_iter, 1),
        ("--warm-iter", settings.warm_iter, 0),
        ("--refine", settings.refine, 0),
        ("--threads", settings.threads, 1),
    ):
        if value is not None and value < low:
            raise UsageError(f"{flag} {value} is too small; it takes {low} or more.")
    if not settings.max_gap >= 0:
        raise UsageError(f"--max-gap {settings.max_gap} is not a time; give seconds from 0 on.")
    if settings.max_error is not None and not settings.max_error > 0:
        raise UsageError(f"--max-error {settings.max_error} is not a number above 0.")
    if not 0 <= settings.crf <= 51:
        raise UsageError(f"--crf {settings.crf} is out of range; it takes 0 (best) to 51 (worst).")
    if not -20 <= settings.head_qp <= 0:
        raise UsageError(f"--head-qp {settings.head_qp} is out of range; it takes -20 (finest) to 0 (as the rest).")
    find_codec(settings.codec)
    if settings.audit not in ("file", "full"):
        raise UsageError(f"--audit {settings.audit} is unknown; it takes file or full.")
    for region in settings.regions:
        parse_region(region)
    attack = None
    eps = parse_eps(settings.eps)
    if settings.attack.strip().lower() != "none":
        name, method = find_method(settings.attack)
        options = parse_options(name, settings.attack_options)
        attack = AttackSettings(name, eps, settings.max_iter or method.steps, options)
    point = None
    if settings.embed.strip().lower() != "largest":
        try:
            x, y = (float(part) for part in settings.embed.split(","))
        except ValueError:
            raise UsageError(f"--embed {settings.embed!r} is neither largest nor a point x,y in px.") from None
        point = (x, y)
    obscuring = parse_obscuring(settings.mask)
    weak = warning(obscuring)
    return _Plan(obscuring, attack, point, () if weak is None else (weak,))


@dataclass
class Survey:
    """What the first pass found."""

    observations: list[FrameObservation]
    """Of each frame at most one face: the one whose attributes are embedded."""
    seen: list[Detections]
    """Every face of each frame, for covering."""
    times: list[float]

    @property
    def any_face(self) -> bool:
        return any(len(found) for found in self.seen)


def survey_video(
    reader: VideoReader,
    observer: Observer,
    point: tuple[float, float] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
    companions: Sequence[Detector] = (),
) -> Survey:
    """See every frame of the original. `point`: embed the face nearest to it instead of the largest. `companions`:
    detectors that cover too."""
    survey = Survey([], [], [])
    for frames in runs(reader, batch_size):
        images = [frame.image for frame in frames]
        reported, covering = see_all(observer.detector, companions, images)
        faces = observer.read_faces(images, [_chosen(found, point) for found in reported])
        for frame, own, found in zip(frames, faces, covering, strict=True):
            survey.observations.append(FrameObservation(frame.index, frame.pts, own))
            survey.seen.append(found)
            survey.times.append(frame.pts)
        (progress or Silent()).advance(len(frames))
    return survey


def plan_cover(
    survey: Survey, reader: VideoReader, settings: DeidSettings, obscuring: Obscuring
) -> list[tuple[Region, ...]]:
    """What each frame must hide. Raises NoFaceError where nothing was seen and `on_no_face` says to refuse."""
    height, width = reader.info.height, reader.info.width
    manual = [parse_region(text) for text in settings.regions]
    if not survey.any_face and not manual:
        if settings.on_no_face == "refuse":
            raise NoFaceError(
                f"{reader.path}: no face is seen in any frame; cover a part by hand with --region, cover everything "
                "with --on-no-face solid, or copy the clip as it is with --on-no-face copy."
            )
        if settings.on_no_face == "solid":
            return [(whole_frame(height, width, obscuring),)] * len(survey.times)
        return [()] * len(survey.times)
    tracks = link(survey.seen, survey.times, settings.max_gap)
    covers: list[list[CoverBox]] = cover_boxes(tracks, survey.times, settings.max_gap)
    return plan_regions(add_regions(covers, manual, survey.times), obscuring, height, width)


def deidentify(
    source: str | Path,
    output: str | Path,
    settings: DeidSettings | None = None,
    *,
    models: Models | None = None,
    report: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """De-identify `source` into `output`, and write the report beside it (`report`, by default OUTPUT.report.json).

    `source` is a video, a picture or a folder of pictures. `models` that are loaded already are used again; they must
    fit `settings.victims`. `progress` is told of the steps.

    Returns the report as the file has it: a dict whose form drsf_cli/report.py tells. Raises a DrsfError
    (weights/errors.py has the tree), one sentence, and then leaves nothing behind.
    """
    settings = settings or DeidSettings()
    progress = progress or Silent()
    began = time.monotonic()
    plan = check(settings)
    source, output = Path(source), Path(output)
    report = Path(report) if report is not None else report_path(output)
    reader = VideoReader(source, settings.start, settings.end)
    info = reader.info
    camera = None if settings.camera is None else Camera.load(settings.camera, info.width, info.height)
    models = models or Models.load(settings.victims, settings.device, settings.allow_unknown_weights, settings.threads)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)

    beside: list[AtomicOutput] = []
    run: _Run | None = None
    page: AtomicOutput | None = None
    try:
        # before any work: places that cannot be written are said at once
        run = _Run(settings, plan, reader, models, camera, progress, output)
        beside.extend(
            AtomicOutput(path, overwrite=settings.overwrite, inputs=[source, output])
            for path in (report, sheet_path(output))
        )
        if settings.html:
            page = AtomicOutput(page_path(output), overwrite=settings.overwrite, inputs=[source, output, report])
        document = run.execute(began)
        # the output last: one that is there has its report and its sheet, whenever the process is killed
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        for one, content in zip(beside, (text.encode(), run.sheet), strict=True):
            one.fill(content)
        publish_together([*beside, run.writer])
        if page is not None:  # shows frames of the output, so it comes after it
            page.fill(render_html([(report, document)]).encode())
            page.publish()
    finally:
        for one in (*beside, *([] if page is None else [page])):
            one.discard()
        if run is not None:
            run.close()
    return document


def floor_frames(count: int) -> int:
    """Frames of a clip of `count` that the codec's noise floor is measured on, at most."""
    return FLOOR_LENGTH * min(FLOOR_RUNS, max(1, count // (4 * FLOOR_LENGTH)))


def report_path(output: Path) -> Path:
    """Where the report of an output goes unless told otherwise."""
    return output.with_name(output.name + ".report.json")


def page_path(output: Path) -> Path:
    """Where the page of an output's report goes."""
    return output.with_name(output.name + ".report.html")


def sheet_path(output: Path) -> Path:
    """Where the audit's contact sheet of an output goes: the frames nearest to failing, as written."""
    return output.with_name(output.name + ".audit.png")


class _Run:
    """One video on its way."""

    def __init__(
        self,
        settings: DeidSettings,
        plan: _Plan,
        reader: VideoReader,
        models: Models,
        camera: Camera | None,
        progress: Progress,
        output: Path,
    ) -> None:
        self.settings, self.plan, self.reader, self.models = settings, plan, reader, models
        self.camera, self.progress, self.output = camera, progress, output
        self.info: VideoInfo = reader.info
        self.observer = models.reader("onnx", camera)
        self.repelled = repelled_victims(settings.repel if plan.attack else (), models, settings.allow_unknown_weights)
        self.repel = Repeller(self.repelled, camera).stages if self.repelled else None
        self.companions = models.covering(settings.cover_detectors, settings.allow_unknown_weights)
        self.store = ChangeStore()
        self.sheet = b""
        self.recovered: list[FrameObservation] = []
        self._writers: list[Writer] = []
        self.writer: Writer = self._open_writer()

    def close(self) -> None:
        """Remove what was not published."""
        self.store.close()
        for writer in self._writers:  # a refined run has two
            writer.__exit__(None, None, None)

    def _open_writer(self) -> Writer:
        s = self.settings
        keep = self.reader.path if s.keep_audio and self.info.has_audio else None
        writer = open_writer(
            self.output,
            self.info,
            codec=s.codec,
            crf=s.crf,
            preset=s.preset,
            focus_qp=s.head_qp,
            keep_audio_from=keep,
            start=s.start,
            end=s.end,
            overwrite=s.overwrite,
        )
        self._writers.append(writer)
        return writer

    def execute(self, began: float) -> dict[str, Any]:
        whole = self.settings.start is None and self.settings.end is None
        self.progress.begin("Reading the original", self.info.frame_count if whole else None)
        survey = survey_video(
            self.reader,
            self.observer,
            self.plan.point,
            self.settings.batch_size,
            self.progress,
            self.companions,
        )
        regions = plan_cover(survey, self.reader, self.settings, self.plan.obscuring)
        embedded = self._embed(survey, regions)
        result = self._verify(survey)
        lossy = not CODECS[self.settings.codec].lossless and self.info.kind == "video"
        # without losses the loop has seen what was written already
        for _ in range(self.settings.refine if self.plan.attack and lossy else 0):
            short = falling_short(result)
            if not short:
                break
            better = self._refined(survey, regions, embedded, result, short)
            if better is None:
                break
            embedded, result = better
        audit = self._audit(regions)
        floor = self._noise_floor(survey, embedded)
        document = self._report(survey, regions, embedded, result, floor, began)
        document["audit"] = audit.to_dict()
        document["leakage"] = self._leakage(survey, regions)
        self._judge(document, result)
        return document

    # -- pass two -------------------------------------------------------------------------------------------------

    def _embed(self, survey: Survey, regions: Sequence[tuple[Region, ...]]) -> dict[int, Embedded]:
        """Obscure, perturb and write every frame. Returns what was embedded, without its pixels."""
        embedder = None
        if self.plan.attack is not None:
            codec = None
            if not CODECS[self.settings.codec].lossless and self.info.kind == "video":
                codec = self._delivery_codec()
            embedder = Embedder(
                self.models.attacker(self.camera),
                self.plan.attack,
                codec,
                self.settings.warm_iter,
                self.repel,
                self.settings.robust,
            )
        done: dict[int, Embedded] = {}
        self.progress.begin("Obscuring and embedding", len(survey.times))
        writer = self.writer
        for frames in runs(self._frames(survey), self.settings.batch_size):
            covered = [self._covered(frame, regions) for frame in frames]
            targets = [
                target
                for frame, hidden in zip(frames, covered, strict=True)
                if (target := self._target(frame, hidden, survey, regions)) is not None
            ]
            embedded = {} if embedder is None else {one.index: one for one in embedder.embed(targets)}
            for frame, hidden in zip(frames, covered, strict=True):
                one = embedded.get(frame.index)
                _write(writer, frame, hidden, one)
            for one in embedded.values():
                self.store.put(one)
                done[one.index] = one.without_pixels()
            self.progress.advance(len(frames))
        writer.finish()
        return done

    def _delivery_codec(self) -> DeliveryCodec:
        s = self.settings
        return DeliveryCodec(encoder_settings(self.info, s.codec, s.crf, s.preset, s.head_qp))

    def _frames(self, survey: Survey) -> Iterator[Frame]:
        """The source once more; it must be what it was in the survey."""
        count = 0
        for frame in self.reader:
            if count >= len(survey.times) or frame.pts != survey.times[count]:
                raise AuditError(f"{self.reader.path} changed while it was read; run again on a file at rest.")
            count += 1
            yield frame
        if count != len(survey.times):
            raise AuditError(f"{self.reader.path} changed while it was read; run again on a file at rest.")

    def _covered(self, frame: Frame, regions: Sequence[tuple[Region, ...]]) -> Image:
        return obscure(frame.image, regions[frame.index], self.plan.obscuring)

    def _target(
        self, frame: Frame, covered: Image, survey: Survey, regions: Sequence[tuple[Region, ...]]
    ) -> Target | None:
        """What to embed in this frame: nothing where no face was seen."""
        face = survey.observations[frame.index].largest
        if face is None:
            return None
        mask = region_mask(_touching(regions[frame.index], face.box), self.info.height, self.info.width)
        if not mask.any():
            return None
        return Target(frame.index, covered, mask, frame.image, face)

    # -- reading back -----------------------------------------------------------------------------------------------

    def _verify(self, survey: Survey) -> Evaluation:
        """Read the temporary file as an authorised reader does."""
        self.progress.begin("Reading the result back", len(survey.times))
        recovered: list[FrameObservation] = []
        for frames in runs(VideoReader(self.writer.temporary), self.settings.batch_size):
            recovered += self.observer.observe(frames)
            self.progress.advance(len(frames))
        self.recovered = recovered
        if len(recovered) != len(survey.times):
            raise AuditError(
                f"{self.output}: {len(recovered)} frames came back where {len(survey.times)} were written; "
                "choose another --codec."
            )
        return evaluate(survey.observations, recovered)

    def _refined(
        self,
        survey: Survey,
        regions: Sequence[tuple[Region, ...]],
        embedded: Mapping[int, Embedded],
        result: Evaluation,
        short: Sequence[int],
    ) -> tuple[dict[int, Embedded], Evaluation] | None:
        """Send frames `short` back for more steps and write the file again. None when that made nothing better."""
        assert self.plan.attack is not None
        embedder = Embedder(self.models.attacker(self.camera), self.plan.attack, extra_stages=self.repel)
        wanted = {index for index in short if index in embedded}
        changes = dict(embedded)
        self.progress.begin("Improving frames that fall short", len(wanted))
        pairs = zip(self._frames(survey), VideoReader(self.writer.temporary), strict=True)
        for group in runs((pair for pair in pairs if pair[0].index in wanted), self.settings.batch_size):
            targets = [
                target
                for frame, _ in group
                if (target := self._target(frame, self._covered(frame, regions), survey, regions)) is not None
            ]
            before = [self.store.get(embedded[target.index]) for target in targets]
            improved = embedder.improve(targets, before, [d.image for _, d in group], MORE_STEPS)
            for old, new in zip(before, improved, strict=True):
                self.store.put(new)
                changes[new.index] = new.adding(old).without_pixels()
            self.progress.advance(len(group))
        first = self.writer
        self.writer = self._open_writer()
        self.progress.begin("Writing again", len(survey.times))
        for frame in self._frames(survey):
            hidden = self._covered(frame, regions)
            one = changes.get(frame.index)
            _write(self.writer, frame, hidden, None if one is None else self.store.get(one))
            self.progress.advance(1)
        self.writer.finish()
        kept = self.recovered
        again = self._verify(survey)
        if badness(again) < badness(result):
            first.__exit__(None, None, None)
            return changes, again
        self.writer.__exit__(None, None, None)
        self.writer, self.recovered = first, kept
        return None

    def _audit(self, regions: Sequence[tuple[Region, ...]]) -> AuditReport:
        """Check the temporary file itself. Raises AuditError when it fails, unless it is to be kept."""
        self.progress.begin("Auditing the result", len(regions))
        audit = audit_file(
            self.reader,
            self.writer.temporary,
            regions,
            self.plan.obscuring,
            finders_at_hand([self.observer.detector, *self.companions]),
            keep_audio=self.settings.keep_audio and self.info.has_audio,
            on_frame=self.progress.advance,
        )
        if not audit.passed and not self.settings.keep_failed:
            raise AuditError(
                f"{self.output} failed its audit and was removed: {audit.problems[0]} (--keep-failed would keep it.)"
            )
        self.sheet = audit.sheet
        return audit

    def _leakage(self, survey: Survey, regions: Sequence[tuple[Region, ...]]) -> dict[str, Any] | None:
        """What models that were not authorised read from the temporary file: all at hand where that was asked for,
        else those that were repelled."""
        outsiders = outsiders_at_hand(self.models) if self.settings.audit == "full" else {}
        outsiders |= {name: Outsider(name, victim) for name, victim in self.repelled.items()}
        if not outsiders:
            return None
        codec = None
        if not CODECS[self.settings.codec].lossless and self.info.kind == "video":
            codec = self._delivery_codec()
        recogniser, _ = find_recogniser(None) if self.settings.audit == "full" else (None, "")
        return measure(
            self.reader,
            self.writer.temporary,
            Covered(survey.observations, regions, self.plan.obscuring, codec),
            self.observer,
            outsiders,
            device=self.settings.device,
            repelled=set(self.repelled),
            identity=None if recogniser is None else IdentityMeter(recogniser),
            batch_size=self.settings.batch_size,
            progress=self.progress,
        )

    def _noise_floor(self, survey: Survey, embedded: Mapping[int, Embedded]) -> Evaluation | None:
        """What the codec alone costs: errors read from untouched frames that went through it, as finely coded as the
        output, in memory only."""
        count = len(survey.times)
        if CODECS[self.settings.codec].lossless or self.info.kind != "video" or self.plan.attack is None:
            return None
        codec = self._delivery_codec()
        runs_wanted = floor_frames(count) // FLOOR_LENGTH
        starts = {round((k + 0.5) * count / runs_wanted - FLOOR_LENGTH / 2) for k in range(runs_wanted)}
        self.progress.begin(FLOOR_STEP, len(starts) * FLOOR_LENGTH)
        seen: list[FrameObservation] = []
        group: list[Frame] = []
        for frame in self._frames(survey):
            if any(start <= frame.index < start + FLOOR_LENGTH for start in starts):
                group.append(frame)
            if group and (len(group) == FLOOR_LENGTH or frame.index == count - 1):
                focus = [[embedded[one.index].focus] if one.index in embedded else [] for one in group]
                decoded = codec.roundtrip(np.stack([one.image for one in group]), focus=focus)
                seen += self.observer.observe(
                    [Frame(f.index, f.pts, f.pts_ticks, image) for f, image in zip(group, decoded, strict=True)]
                )
                self.progress.advance(len(group))
                group = []
        return evaluate(survey.observations, seen) if seen else None

    def _obscured_only(
        self, survey: Survey, regions: Sequence[tuple[Region, ...]], shown: Sequence[int]
    ) -> dict[int, FrameObservation]:
        """What is read from frames `shown` when they are obscured and nothing is embedded; in memory only."""
        if self.plan.attack is None:  # then that is the output itself
            return {}
        wanted = set(shown)
        seen: dict[int, FrameObservation] = {}
        self.progress.begin(SHOWN_STEP, len(wanted))
        for frame in self._frames(survey):
            if frame.index in wanted:
                hidden = replace(frame, image=self._covered(frame, regions))
                seen[frame.index] = self.observer.observe([hidden])[0]
                self.progress.advance()
        return seen

    # -- the report -------------------------------------------------------------------------------------------------

    def _report(
        self,
        survey: Survey,
        regions: Sequence[tuple[Region, ...]],
        embedded: Mapping[int, Embedded],
        result: Evaluation,
        floor: Evaluation | None,
        began: float,
    ) -> dict[str, Any]:
        info, count = self.info, len(survey.times)
        floors = {} if floor is None else {row.frame_id: row for row in floor.frames}
        seconds = time.monotonic() - began
        rows = [_frame_row(row, embedded.get(row.frame_id), floors.get(row.frame_id)) for row in result.frames]
        shown = sample_ids(rows)
        weak = self._obscured_only(survey, regions, shown)
        return {
            "drsf": versions()["drsf"],
            "input": {
                "path": str(self.reader.path),
                "sha256": digest(self.reader.path),
                "frames": count,
                "width": info.width,
                "height": info.height,
                "fps": float(info.average_rate),
                "camera_sha256": None if self.settings.camera is None else digest(self.settings.camera),
            },
            "output": {
                "path": str(self.output),
                "sha256": digest(self.writer.temporary),
                "bytes": _size(self.writer.temporary),
            },
            "settings": settings_to_dict(self.settings),
            "victims": self.models.describe(),
            "repelled": {
                name: {"name": victim.name, "weights": dict(victim.weights)} for name, victim in self.repelled.items()
            },
            "providers": self.models.providers(),
            "versions": versions(),
            "fidelity": {
                "recovered": summary(result),
                "noise_floor": None if floor is None else summary(floor),
                "obscured_only": summary(evaluate(survey.observations, weak.values())) if weak else None,
            },
            "tolerances": dict(TOLERANCES),
            "frames": rows,
            "samples": [sample(i, regions[i], survey.observations[i], self.recovered[i], weak.get(i)) for i in shown],
            "cost": {
                "victim_passes_per_frame": sum(one.passes for one in embedded.values()) / count,
                "victim_checks_per_frame": sum(one.checks for one in embedded.values()) / count,
                "steps_per_frame": sum(one.steps for one in embedded.values()) / count,
                "seconds_per_frame": seconds / count,
                "peak_memory_mb": peak_memory_mb(),
            },
            "covering": {
                "detectors": [one.name for one in (self.observer.detector, *self.companions)],
                "frames_with_face": sum(len(found) > 0 for found in survey.seen),
                "frames_covered": sum(bool(own) for own in regions),
                "frames_filled_in": sum(
                    bool(own) and not len(found) for own, found in zip(regions, survey.seen, strict=True)
                ),
            },
        }

    def _judge(self, document: Mapping[str, Any], result: Evaluation) -> None:
        limit = self.settings.max_error
        if limit is None:
            return
        worst = {row.frame_id: score(row) for row in result.frames if row.in_gt}
        over = [index for index, value in worst.items() if value > limit]
        if over:
            raise FidelityError(
                f"{self.output}: {len(over)} of {document['input']['frames']} frames are over --max-error {limit:g} "
                f"(the worst is frame {max(over, key=worst.__getitem__)}); raise it, or allow more --max-iter or --eps."
            )


def _write(writer: Writer, frame: Frame, covered: Image, embedded: Embedded | None) -> None:
    """Write one covered frame, with what is embedded in it."""
    if embedded is None:
        writer.write(covered, frame.pts_ticks, frame.duration_ticks)
    else:
        writer.write(embedded.apply(covered), frame.pts_ticks, frame.duration_ticks, [embedded.focus])


class ChangeStore:
    """Perturbations of a clip, packed, in an unnamed temporary file: memory stays flat, and nothing outlives the
    run."""

    def __init__(self) -> None:
        with self._failures():
            self._file = tempfile.TemporaryFile(prefix="drsf-")  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}

    def put(self, embedded: Embedded) -> None:
        """Keep the pixels of one frame, replacing earlier ones."""
        packed = zlib.compress(np.ascontiguousarray(embedded.change).tobytes(), level=1)
        with self._failures():
            start = self._file.seek(0, 2)
            self._file.write(packed)
            self._file.flush()
        self._places[embedded.index] = (start, len(packed))

    def get(self, embedded: Embedded) -> Embedded:
        """`embedded` with its pixels."""
        start, length = self._places[embedded.index]
        self._file.seek(start)
        window = embedded.window
        change = np.frombuffer(zlib.decompress(self._file.read(length)), dtype=np.int8)
        return embedded.with_pixels(change.reshape(window.height, window.width, 3))

    def close(self) -> None:
        self._file.close()

    @staticmethod
    @contextlib.contextmanager
    def _failures() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()} cannot hold this run's work ({error.strerror}); make room, or set TMPDIR."
            ) from error


def _chosen(found: Detections, point: tuple[float, float] | None) -> Detections:
    """The one face of `found` whose attributes are embedded."""
    if not len(found):
        return found
    if point is None:
        best = int(np.argmax((found.boxes[:, 2] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 1])))
    else:
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        best = int(np.argmin(np.linalg.norm(centres - np.array(point), axis=1)))
    return Detections(found.boxes[best : best + 1], found.scores[best : best + 1])


def _touching(regions: Sequence[Region], box: Array) -> list[Region]:
    """Regions that overlap the face's box: where its perturbation may be."""
    x1, y1, x2, y2 = box
    return [r for r in regions if r.rect[0] < x2 and r.rect[2] > x1 and r.rect[1] < y2 and r.rect[3] > y1]


_COLUMNS: Mapping[str, tuple[str, float]] = {
    "iou": ("detector", 1.0),
    "nme_percent": ("aligner", 0.01),
    "gaze_degrees": ("gaze", 1.0),
}
"""Metric of an evaluation -> role, and what turns it into the unit of that role's tolerance."""


def score(row: FrameErrors) -> float:
    """The worst error of a frame in units of its tolerance; infinite where the face was missed."""
    if row.missed:
        return float("inf")
    values = []
    for key, (role, factor) in _COLUMNS.items():
        value = getattr(row, key)
        if value is not None:
            error = 1.0 - value if key == "iou" else value * factor
            values.append(error / TOLERANCES[role])  # type: ignore[index]
    return max(values, default=0.0)


SHORT = 6.0
"""A frame whose worst error is over this many tolerances goes back for more steps ..."""
MORE_STEPS = 3
"""... and gets this many a round."""


def falling_short(result: Evaluation) -> list[int]:
    """Frames of the written file that are worth more steps."""
    return [row.frame_id for row in result.frames if row.in_gt and score(row) > SHORT]


def badness(result: Evaluation) -> float:
    """Mean score over frames, a missed one counted as 50."""
    scores = [min(score(row), 50.0) for row in result.frames if row.in_gt]
    return float(np.mean(scores)) if scores else 0.0


def _frame_row(row: FrameErrors, embedded: Embedded | None, floor: FrameErrors | None) -> dict[str, Any]:
    def errors(of: FrameErrors) -> dict[str, Any]:
        return {
            "iou": of.iou,
            "nme": of.nme_percent,
            "gaze_deg": of.gaze_degrees,
            "landmarks_px": of.landmark_px,
            "head_pose_deg": of.pose_degrees,
        }

    return {
        "frame_id": row.frame_id,
        "pts": row.pts,
        "missed": row.missed,
        **errors(row),
        "passes": 0 if embedded is None else embedded.passes,
        "steps": 0 if embedded is None else embedded.steps,
        "floor": None if floor is None else errors(floor),
    }


_SUMMARY_NAMES = {
    "iou": "iou",
    "landmark_px": "landmarks_px",
    "nme_percent": "nme",
    "gaze_degrees": "gaze_deg",
    "pose_degrees": "head_pose_deg",
    "diff_score": "diff_score",
}


def summary(result: Evaluation) -> dict[str, Any]:
    """An evaluation as the report has it: mean, median, 95th percentile and worst of each error."""
    document: dict[str, Any] = {
        "frames": result.compared,
        "missed": len(result.missed),
        "extra": len(result.extra),
        "missed_frames": list(result.missed),
    }
    for key, name in _SUMMARY_NAMES.items():
        one = result.summaries.get(key)
        if one is not None:
            document[name] = {
                "mean": one.mean,
                "median": one.median,
                "p95": one.p95,
                "worst": one.worst,
                "worst_frame": one.worst_frame,
            }
    return document


def settings_to_dict(settings: DeidSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    flat = asdict(settings)
    flat["camera"] = None if settings.camera is None else str(settings.camera)
    return flat


def digest(path: Path) -> str:
    """Hex sha256 of a file, or of the files of a folder by name."""
    state = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            state.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def _size(path: Path) -> int:
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def peak_memory_mb() -> float:
    """Most memory this process has had in use, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
