"""One clip with its settings, and the models in the places that these give them: the passes over its frames."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from attacks.codec import CODECS, DeliveryCodec, EncoderSettings
from attacks.drawer import Drawer, load_drawer
from attacks.embed import Embedded, Embedder
from attacks.live import LiveCodec, Sent
from attacks.obscure import CoveredImage, Region
from attacks.perturb import AttackSettings
from attacks.repel import Repeller
from attacks.tuning import tuned
from drsf_cli.deid.changes import FaceKey
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.faces import embed_faces
from drsf_cli.deid.sample import sample_of
from drsf_cli.deid.segments import Part, in_segments
from drsf_cli.deid.survey import Survey, plan_cover, survey_video
from drsf_cli.deid.targets import Given, averaged_survey, given_survey, read_targets
from drsf_cli.media.reader import Frame, VideoReader, open_source
from drsf_cli.media.writer import encoder_settings
from drsf_cli.progress import Progress, runs
from drsf_cli.readers.around import Around
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import repelled_victims
from drsf_cli.readers.rotation import turned
from drsf_cli.settings import DeidSettings
from victims.base import Detector, Victim
from victims.camera import Camera
from victims.crew import Each
from victims.observe import Observer

SURVEY_STEP, FIT_STEP, EMBED_STEP = "Reading the original", "Fitting the drawing", "Obscuring and embedding"


@dataclass
class Work:
    """Ready to go over the frames of `reader`: all of a clip, or a part of it."""

    settings: DeidSettings
    reader: VideoReader
    models: Models
    camera: Camera | None
    given: Given | None = None
    """Attributes to embed in place of those that are read; frames count from the first of the whole clip."""

    @classmethod
    def on(cls, source: Path, settings: DeidSettings, models: Models | None = None) -> Work:
        """Open what `source` and `settings` name. Raises a DrsfError."""
        models = models or Models.of(settings)
        reader = turned(open_source(source, settings), settings.rotate, models.reader("onnx").detector)
        camera = None
        if settings.camera is not None:
            camera = Camera.load(settings.camera, reader.info.width, reader.info.height)
        given = None if settings.targets is None else read_targets(settings.targets, reader.info)
        return cls(settings, reader, models, camera, given)

    def part(self, part: Part) -> Work:
        """The same for a part of what is read."""
        return replace(self, reader=self.reader.part(part.start, part.end))

    @cached_property
    def observer(self) -> Observer:
        """How an authorised reader reads."""
        return self.models.reader("onnx", self.camera)

    @property
    def around(self) -> Around:
        """How frames are looked at all around."""
        return Around(self.settings.min_face, self.models.each)

    @cached_property
    def companions(self) -> Sequence[Detector]:
        """The detectors that decide about covering beside the chain's own."""
        return self.models.covering(self.settings.cover_detectors, self.settings.allow_unknown_weights)

    @cached_property
    def repelled(self) -> dict[str, Victim]:
        """The models that are repelled, by name; none where no victim is read for a gradient."""
        wanted = self.settings.repel if self.settings.takes_steps else ()
        return repelled_victims(wanted, self.models, self.settings.allow_unknown_weights)

    @cached_property
    def encoder(self) -> EncoderSettings:
        """How the output is encoded; it looks ahead unless frames are tried on the very encoder (attacks/live.py)."""
        s = self.settings
        live = s.takes_steps and s.effort_settings.live
        return encoder_settings(self.reader.info, s.codec, s.crf, focus_qp=s.head_qp, looks_ahead=not live)

    @cached_property
    def delivery(self) -> DeliveryCodec | None:
        """What the fit and steps see of the codec, frame by frame; None where that is lossless."""
        s, info = self.settings, self.reader.info
        if CODECS[s.codec].lossless or info.kind != "video":
            return None
        return DeliveryCodec(replace(self.encoder, looks_ahead=False))

    def survey(self, progress: Progress) -> Survey:
        """See every frame."""
        reader, s = self.reader, self.settings
        whole = reader.start is None and reader.end is None
        progress.begin(SURVEY_STEP, reader.info.frame_count if whole else None)
        return survey_video(
            reader,
            self.observer,
            s.whose if self.given is None else "all",
            s.frames_at_once,
            progress,
            self.companions,
            s.segment,
            self.around,
        )

    def cover(self, survey: Survey) -> list[tuple[Region, ...]]:
        """What each frame must hide; `survey` is of the whole clip. Raises NoFaceError."""
        return plan_cover(survey, self.reader, self.settings)

    def clip(self, survey: Survey, regions: Sequence[tuple[Region, ...]]) -> SurveyedClip:
        """Raises InputError where attributes that are given do not fit; `survey` is then of the whole clip."""
        info = self.reader.info
        camera = self.camera or Camera.default(info.width, info.height)
        wanted = survey
        if self.given is not None:
            wanted = given_survey(wanted, self.given, regions, self.observer, camera)
        if self.settings.shape == "average":
            wanted = averaged_survey(wanted, self.observer, camera)
        return SurveyedClip(self.reader, survey, regions, self.settings.obscuring, wanted)

    def embed(
        self, clip: SurveyedClip, progress: Progress
    ) -> Iterator[tuple[Frame, CoveredImage, dict[FaceKey, Embedded]]]:
        """Each frame, its picture with everything embedded in it, and what is embedded.

        Each segment by itself, with a drawer that is fitted to it.
        """
        s, time_base, done = self.settings, self.reader.info.time_base, 0
        attack = s.attack_settings
        each: Each = map if s.effort_settings.live else self.models.each  # the encoder waits for the frames before
        for frames_of_segment in in_segments(clip.frames(), s.segment, time_base):
            first = next(frames_of_segment)
            segment = itertools.chain([first], frames_of_segment)
            drawing = None if attack is None else self._fitted(clip, first, attack, progress)
            progress.begin(EMBED_STEP, len(clip))
            progress.advance(done)
            trying = attack is not None and s.effort_settings.live and self.delivery is not None
            live = LiveCodec(self.delivery.settings) if trying and self.delivery is not None else None
            with live or contextlib.nullcontext():
                embedder = None if drawing is None else replace(drawing, codec=live or drawing.codec)
                embed = partial(_embedded, clip, embedder)
                for frames, images, embedded in each(embed, runs(segment, s.frames_at_once)):
                    for frame, image in zip(frames, images, strict=True):
                        own = {key: one for key, one in embedded.items() if key[0] == frame.index}
                        if live is not None:
                            live.take(Sent(image, frame.pts_ticks, [one.focus for one in own.values()]))
                        yield frame, image, own
                    progress.advance(len(frames))
                    done += len(frames)

    def _fitted(self, clip: SurveyedClip, first: Frame, attack: AttackSettings, progress: Progress) -> Embedder:
        """What embeds in the segment that begins with the frame `first`."""
        embedder, tuning = self.embedder(attack, self.delivery), self.settings.effort_settings.tuning
        if tuning is None:
            return embedder
        sample = sample_of(clip, first, self.settings.segment, tuning.sample)
        progress.begin(FIT_STEP, tuning.samples_of(sum(len(own) for own in sample.values())))
        return tuned(embedder, sample, tuning, progress.advance)

    @cached_property
    def drawer(self) -> Drawer:
        """What draws for the chain. Raises WeightsError."""
        s, chain = self.settings, self.models.torch_chain
        drawer = load_drawer(chain.detector.name, s.drawer, s.allow_unknown_weights)
        return drawer.to(chain.detector.device)

    def embedder(self, attack: AttackSettings, codec: DeliveryCodec | LiveCodec | None) -> Embedder:
        """What embeds with `attack` through `codec`."""
        chain = self.models.reader("torch", self.camera)
        repelling = Repeller(self.repelled, self.camera).stages if self.repelled else None
        return Embedder(chain, attack, self.drawer, codec, repelling, self.models.each)


def _embedded(
    clip: SurveyedClip, embedder: Embedder | None, frames: Sequence[Frame]
) -> tuple[Sequence[Frame], list[CoveredImage], dict[FaceKey, Embedded]]:
    """Frames, their pictures with everything embedded in them, and what is embedded."""
    covered = [clip.covered(frame) for frame in frames]
    return frames, *((covered, {}) if embedder is None else embed_faces(clip, embedder, frames, covered))
