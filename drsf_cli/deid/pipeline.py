"""The deid pipeline: what `drsf deid` does to one video.

    survey    read the original, see and track every face, take the targets
    cover     plan what each frame must hide, missed detections included
    embed     fit the drawer, obscure, perturb, write to a temporary file
    verify    read that file back as an authorised reader does
    audit     check the file itself: form, hidden regions, uncovered faces
    publish   rename into place with the report beside it

Output frames are built from obscured frames alone. Whatever goes wrong before `publish` leaves no output.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attacks.codec import Rect
from attacks.embed import Embedded
from attacks.obscure import CoveredImage
from drsf_cli.deid.baselines import noise_floor, obscured_only
from drsf_cli.deid.changes import ChangeStore, FaceKey
from drsf_cli.deid.checks import AuditReport, audit_file
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.faces import focus_of, redrawn
from drsf_cli.deid.fidelity import Fidelity, fidelity
from drsf_cli.deid.sections import Findings, frames_section, report_section
from drsf_cli.deid.segments import segment_of
from drsf_cli.deid.work import Work
from drsf_cli.measure.evaluation import Evaluation
from drsf_cli.measure.identity import IdentityMeter, find_recogniser
from drsf_cli.measure.leakage import Covered, Readers, measure
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.media.atomic import AtomicOutput, publish_together
from drsf_cli.media.files import page_path, report_path, sheet_path, state_of
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import Writer, open_writer
from drsf_cli.progress import SILENT, Progress, counted
from drsf_cli.readers.finders import finders_around
from drsf_cli.readers.infer import observed
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider, outsiders_at_hand
from drsf_cli.report.page import render_html
from drsf_cli.report.schema import Report, sample_ids
from drsf_cli.settings import DeidSettings
from victims.face import FrameObservation
from weights.errors import AuditError, FidelityError


def deidentify(
    source: str | Path,
    output: str | Path,
    settings: DeidSettings | None = None,
    *,
    models: Models | None = None,
    report: str | Path | None = None,
    progress: Progress = SILENT,
) -> Report:
    """De-identify `source` into `output`, and write the report beside it (`report`, by default OUTPUT.report.json).

    `source` is a video, a picture or a folder of pictures. `models` are loaded victims, to be used again; they must
    fit `settings.victims`. `progress` receives the progress of each step.

    Returns the report, a dict of the form `drsf_cli.report.schema.Report`. If anything goes wrong, raises a DrsfError
    (weights/errors.py), whose message is one sentence, and leaves no file behind.
    """
    began = time.monotonic()
    output = Path(output)
    report = Path(report) if report is not None else report_path(output)
    work = Work.on(Path(source), DeidSettings() if settings is None else settings, models)
    with opened(work, output, report, progress) as run:
        embedded = run.embed(run.survey())
        return run.complete(embedded, began)


@contextlib.contextmanager
def opened(work: Work, output: Path, report: Path, progress: Progress) -> Iterator[Run]:
    """A run that holds the places of its outputs, so that one that cannot be written raises before any work.

    Whatever is not published in the end is removed.
    """
    s, source = work.settings, work.reader.path
    run = Run(work, progress, output, report)
    try:
        run.beside.extend(
            AtomicOutput(path, overwrite=s.overwrite, inputs=[source, output]) for path in (report, sheet_path(output))
        )
        if s.html:
            run.page = AtomicOutput(page_path(output), overwrite=s.overwrite, inputs=[source, output, report])
        yield run
    finally:
        run.close()


@dataclass(frozen=True)
class Written:
    """What is in the temporary file."""

    clip: SurveyedClip
    embedded: Mapping[FaceKey, Embedded]
    """Without its pixels."""


class Run:
    """The passes over one video, from the survey to the published files."""

    def __init__(self, work: Work, progress: Progress, output: Path, report: Path) -> None:
        self.work, self.progress, self.output, self.report = work, progress, output, report
        self.settings, self.reader = work.settings, work.reader
        self.observer, self.companions, self.repelled = work.observer, work.companions, work.repelled
        self.each = work.models.each
        self.store = ChangeStore()
        self.beside: list[AtomicOutput] = []
        """The report and the contact sheet."""
        self.page: AtomicOutput | None = None
        self.sheet = b""
        self.recovered: list[FrameObservation] = []
        self._segment = 0
        """The last frame's."""
        s = work.settings
        self.writer: Writer = open_writer(
            output, self.reader.info, work.encoder, audio=s.audio, start=s.start, end=s.end, overwrite=s.overwrite
        )

    def close(self) -> None:
        """Remove what was not published."""
        for one in (*self.beside, *([] if self.page is None else [self.page])):
            one.discard()
        self.store.close()
        self.writer.__exit__()

    # -- the passes -------------------------------------------------------------------------------------------------

    def survey(self) -> SurveyedClip:
        """See every frame, and plan what to hide."""
        survey = self.work.survey(self.progress)
        return self.work.clip(survey, self.work.cover(survey))

    def embed(self, clip: SurveyedClip) -> Written:
        """Obscure, perturb and write every frame."""
        done: dict[FaceKey, Embedded] = {}
        for frame, image, embedded in self.work.embed(clip, self.progress):
            self._write(frame, image, [one.focus for one in embedded.values()])
            done |= {key: one.without_pixels() for key, one in embedded.items()}
        self.writer.finish()
        return Written(clip, done)

    def write(self, clip: SurveyedClip, embedded: Mapping[FaceKey, Embedded], title: str) -> Written:
        """Obscure and write every frame, with what the store has of it. `embedded`: without its pixels."""
        self.progress.begin(title, len(clip))
        focus = focus_of(embedded)
        for frame in clip.frames():
            self._write(frame, redrawn(clip, self.store, embedded, frame), focus.get(frame.index, []))
            self.progress.advance()
        self.writer.finish()
        return Written(clip, embedded)

    def _write(self, frame: Frame, image: CoveredImage, focus: Sequence[Rect]) -> None:
        segment = segment_of(frame, self.settings.segment, self.reader.info.time_base)
        if segment != self._segment:  # as the encoder does that the loop tries (drsf_cli/deid/work.py)
            self.writer.begin_afresh()
        self._segment = segment
        self.writer.write(image, frame.pts_ticks, frame.duration_ticks, focus)

    def complete(self, written: Written, began: float) -> Report:
        """Read back, audit and publish what was written. Returns the report."""
        clip, embedded = written.clip, written.embedded
        result = self._verify(clip)
        audit = self._audit(clip)
        floor = None
        if self.settings.attack_settings is not None and self.work.delivery is not None:
            focus = focus_of(embedded)
            floor = noise_floor(clip, self.observer, self.work.encoder, focus, self.progress, self.each)
        document = self._report(clip, embedded, result, floor, audit, began)
        self._judge(document, result)
        # as many frames with the same times may be another film, with heads that nobody looked for
        if state_of(self.reader.path) != clip.survey.source:
            raise clip.changed()
        self._publish(document)
        return document

    # -- reading back -----------------------------------------------------------------------------------------------

    def _verify(self, clip: SurveyedClip) -> Fidelity:
        """Read the temporary file as an authorised reader does."""
        self.progress.begin("Reading the result back", len(clip))
        frames, size = VideoReader(self.writer.temporary), self.settings.frames_at_once
        recovered = list(counted(observed(frames, self.observer, size, self.each), self.progress))
        self.recovered = recovered
        if len(recovered) != len(clip):
            raise AuditError(
                f"{self.output}: {len(recovered)} frames came back where {len(clip)} were written; "
                "choose another --codec."
            )
        return fidelity(clip.targets, recovered)

    def _audit(self, clip: SurveyedClip) -> AuditReport:
        """Check the temporary file itself. Raises AuditError when it fails, unless it is to be kept."""
        self.progress.begin("Auditing the result", len(clip))
        audit = audit_file(
            self.reader,
            self.writer.temporary,
            clip.regions,
            self.settings.obscuring,
            finders_around([self.observer.detector, *self.companions], self.work.around),
            keep_audio=self.settings.audio != "drop" and self.reader.info.has_audio,
            around=clip.survey.around,
            each=lambda work, items: counted(self.each(work, items), self.progress),
        )
        if not audit.passed and not self.settings.keep_failed:
            raise AuditError(f"{self.output} failed its audit and was removed: {audit.problems[0]}")
        self.sheet = audit.sheet
        return audit

    def _leakage(self, clip: SurveyedClip) -> Leakage | None:
        """What models that were not authorised read from the temporary file.

        All at hand where that was asked for, else those that were repelled.
        """
        outsiders = outsiders_at_hand(self.work.models) if self.settings.audit == "full" else {}
        outsiders |= {name: Outsider(name, victim) for name, victim in self.repelled.items()}
        if not outsiders:
            return None
        seen = clip.survey.observations
        recogniser, _ = find_recogniser(None) if self.settings.audit == "full" else (None, "")
        return measure(
            self.reader,
            self.writer.temporary,
            Covered(
                lambda frames: [seen[frame.index] for frame in frames],
                clip.regions,
                self.settings.obscuring,
                self.work.delivery,
            ),
            Readers(self.observer, outsiders, set(self.repelled), self.settings.device, self.each),
            identity=None if recogniser is None else IdentityMeter(recogniser),
            batch_size=self.settings.frames_at_once,
            progress=self.progress,
        )

    # -- the report -------------------------------------------------------------------------------------------------

    def _report(
        self,
        clip: SurveyedClip,
        embedded: Mapping[FaceKey, Embedded],
        result: Fidelity,
        floor: Evaluation | None,
        audit: AuditReport,
        began: float,
    ) -> Report:
        seconds = time.monotonic() - began
        frames = frames_section(clip, embedded, result, floor)
        shown = sample_ids(frames)
        # without an attack that is the output itself
        weak = {}
        if self.settings.attack_settings is not None:
            weak = obscured_only(clip, self.observer, shown, self.progress, self.each)
        found = Findings(
            self.work,
            clip,
            embedded,
            self.recovered,
            result,
            floor,
            frames,
            weak,
            shown,
            audit.to_dict(),
            self._leakage(clip),
            seconds,
        )
        return report_section(found, self.output, self.writer.temporary)

    def _publish(self, document: Report) -> None:
        # in pieces: a whole text of it would take more than all else that is kept of a frame
        text = map(str.encode, json.JSONEncoder(indent=1, allow_nan=False).iterencode(document))
        # the output last: one that is there has its report and its sheet, whenever the process is killed
        for one, content in zip(self.beside, (itertools.chain(text, [b"\n"]), [self.sheet]), strict=True):
            one.fill(content)
        publish_together([*self.beside, self.writer])
        if self.page is not None:  # shows frames of the output, so it comes after it
            self.page.fill([render_html([(self.report, document)]).encode(errors="backslashreplace")])
            self.page.publish()

    def _judge(self, document: Report, result: Fidelity) -> None:
        limit = self.settings.max_error
        if limit is None:
            return
        worst = result.worst
        over = [index for index, value in worst.items() if value > limit]
        if over:
            raise FidelityError(
                f"{self.output}: {len(over)} of {document['input']['frames']} frames are over max_error {limit:g} "
                f"(the worst is frame {max(over, key=worst.__getitem__)}); raise it, or allow more --effort or --eps."
            )
