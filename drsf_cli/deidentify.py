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

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attacks.codec import CODECS, DeliveryCodec
from attacks.embed import TOLERANCES, Embedded, Embedder
from attacks.repel import Repeller
from drsf_cli.atomic import AtomicOutput, publish_together
from drsf_cli.audit import AuditReport, audit_file, finders_at_hand
from drsf_cli.baselines import noise_floor, obscured_only
from drsf_cli.changes import ChangeStore
from drsf_cli.clip import SurveyedClip
from drsf_cli.document import cost_section, covering_section, input_section, output_section, repelled_section
from drsf_cli.evaluate import Evaluation, evaluate
from drsf_cli.fidelity import MORE_STEPS, badness, falling_short, frame_row, score, summary
from drsf_cli.files import page_path, report_path, sheet_path
from drsf_cli.identity import IdentityMeter, find_recogniser
from drsf_cli.leakage import Covered, measure
from drsf_cli.models import Models
from drsf_cli.outsiders import Outsider, outsiders_at_hand, repelled_victims
from drsf_cli.plan import Plan, check
from drsf_cli.progress import Progress, Silent, runs
from drsf_cli.report import render_html, sample, sample_ids
from drsf_cli.settings import DeidSettings, settings_to_dict
from drsf_cli.survey import plan_cover, survey_video
from drsf_cli.versions import versions
from drsf_cli.video import Frame, VideoInfo, VideoReader, Writer, encoder_settings, open_writer
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import AuditError, FidelityError


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


class _Run:
    """One video on its way."""

    def __init__(
        self,
        settings: DeidSettings,
        plan: Plan,
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
        lossy = not CODECS[settings.codec].lossless and reader.info.kind == "video"
        self.delivery = _delivery(reader.info, settings) if lossy else None
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
        clip = SurveyedClip(self.reader, survey, regions, self.plan.obscuring)
        embedded = self._embed(clip)
        result = self._verify(clip)
        # without losses the loop has seen what was written already
        for _ in range(self.settings.refine if self.plan.attack and self.delivery is not None else 0):
            short = falling_short(result)
            if not short:
                break
            better = self._refined(clip, embedded, result, short)
            if better is None:
                break
            embedded, result = better
        audit = self._audit(clip)
        floor = None
        if self.plan.attack is not None and self.delivery is not None:
            floor = noise_floor(clip, self.observer, self.delivery, embedded, self.progress)
        document = self._report(clip, embedded, result, floor, began)
        document["audit"] = audit.to_dict()
        document["leakage"] = self._leakage(clip)
        self._judge(document, result)
        return document

    # -- pass two -------------------------------------------------------------------------------------------------

    def _embed(self, clip: SurveyedClip) -> dict[int, Embedded]:
        """Obscure, perturb and write every frame. Returns what was embedded, without its pixels."""
        embedder = None
        if self.plan.attack is not None:
            embedder = Embedder(
                self.models.attacker(self.camera),
                self.plan.attack,
                self.delivery,
                self.settings.warm_iter,
                self.repel,
                self.settings.robust,
            )
        done: dict[int, Embedded] = {}
        self.progress.begin("Obscuring and embedding", len(clip))
        writer = self.writer
        for frames in runs(clip.frames(), self.settings.batch_size):
            covered = [clip.covered(frame) for frame in frames]
            targets = [
                target
                for frame, hidden in zip(frames, covered, strict=True)
                if (target := clip.target(frame, hidden)) is not None
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

    # -- reading back -----------------------------------------------------------------------------------------------

    def _verify(self, clip: SurveyedClip) -> Evaluation:
        """Read the temporary file as an authorised reader does."""
        self.progress.begin("Reading the result back", len(clip))
        recovered: list[FrameObservation] = []
        for frames in runs(VideoReader(self.writer.temporary), self.settings.batch_size):
            recovered += self.observer.observe(frames)
            self.progress.advance(len(frames))
        self.recovered = recovered
        if len(recovered) != len(clip):
            raise AuditError(
                f"{self.output}: {len(recovered)} frames came back where {len(clip)} were written; "
                "choose another --codec."
            )
        return evaluate(clip.survey.observations, recovered)

    def _refined(
        self,
        clip: SurveyedClip,
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
        pairs = zip(clip.frames(), VideoReader(self.writer.temporary), strict=True)
        for group in runs((pair for pair in pairs if pair[0].index in wanted), self.settings.batch_size):
            targets = [target for frame, _ in group if (target := clip.target(frame, clip.covered(frame))) is not None]
            before = [self.store.get(embedded[target.index]) for target in targets]
            improved = embedder.improve(targets, before, [d.image for _, d in group], MORE_STEPS)
            for old, new in zip(before, improved, strict=True):
                self.store.put(new)
                changes[new.index] = new.adding(old).without_pixels()
            self.progress.advance(len(group))
        first = self.writer
        self.writer = self._open_writer()
        self.progress.begin("Writing again", len(clip))
        for frame in clip.frames():
            one = changes.get(frame.index)
            _write(self.writer, frame, clip.covered(frame), None if one is None else self.store.get(one))
            self.progress.advance(1)
        self.writer.finish()
        kept = self.recovered
        again = self._verify(clip)
        if badness(again) < badness(result):
            first.__exit__(None, None, None)
            return changes, again
        self.writer.__exit__(None, None, None)
        self.writer, self.recovered = first, kept
        return None

    def _audit(self, clip: SurveyedClip) -> AuditReport:
        """Check the temporary file itself. Raises AuditError when it fails, unless it is to be kept."""
        self.progress.begin("Auditing the result", len(clip))
        audit = audit_file(
            self.reader,
            self.writer.temporary,
            clip.regions,
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

    def _leakage(self, clip: SurveyedClip) -> dict[str, Any] | None:
        """What models that were not authorised read from the temporary file: all at hand where that was asked for,
        else those that were repelled."""
        outsiders = outsiders_at_hand(self.models) if self.settings.audit == "full" else {}
        outsiders |= {name: Outsider(name, victim) for name, victim in self.repelled.items()}
        if not outsiders:
            return None
        recogniser, _ = find_recogniser(None) if self.settings.audit == "full" else (None, "")
        return measure(
            self.reader,
            self.writer.temporary,
            Covered(clip.survey.observations, clip.regions, self.plan.obscuring, self.delivery),
            self.observer,
            outsiders,
            device=self.settings.device,
            repelled=set(self.repelled),
            identity=None if recogniser is None else IdentityMeter(recogniser),
            batch_size=self.settings.batch_size,
            progress=self.progress,
        )

    # -- the report -------------------------------------------------------------------------------------------------

    def _report(
        self,
        clip: SurveyedClip,
        embedded: Mapping[int, Embedded],
        result: Evaluation,
        floor: Evaluation | None,
        began: float,
    ) -> dict[str, Any]:
        floors = {} if floor is None else {row.frame_id: row for row in floor.frames}
        seconds = time.monotonic() - began
        rows = [frame_row(row, embedded.get(row.frame_id), floors.get(row.frame_id)) for row in result.frames]
        shown = sample_ids(rows)
        # without an attack that is the output itself
        weak = {} if self.plan.attack is None else obscured_only(clip, self.observer, shown, self.progress)
        observations = clip.survey.observations
        return {
            "drsf": versions()["drsf"],
            "input": input_section(clip, self.settings.camera),
            "output": output_section(self.output, self.writer.temporary),
            "settings": settings_to_dict(self.settings),
            "victims": self.models.describe(),
            "repelled": repelled_section(self.repelled),
            "providers": self.models.providers(),
            "versions": versions(),
            "fidelity": {
                "recovered": summary(result),
                "noise_floor": None if floor is None else summary(floor),
                "obscured_only": summary(evaluate(observations, weak.values())) if weak else None,
            },
            "tolerances": dict(TOLERANCES),
            "frames": rows,
            "samples": [sample(i, clip.regions[i], observations[i], self.recovered[i], weak.get(i)) for i in shown],
            "cost": cost_section(embedded, len(clip), seconds),
            "covering": covering_section(clip, [self.observer.detector, *self.companions]),
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


def _delivery(info: VideoInfo, settings: DeidSettings) -> DeliveryCodec:
    s = settings
    return DeliveryCodec(encoder_settings(info, s.codec, s.crf, s.preset, s.head_qp))


def _write(writer: Writer, frame: Frame, covered: Image, embedded: Embedded | None) -> None:
    """Write one covered frame, with what is embedded in it."""
    if embedded is None:
        writer.write(covered, frame.pts_ticks, frame.duration_ticks)
    else:
        writer.write(embedded.apply(covered), frame.pts_ticks, frame.duration_ticks, [embedded.focus])
