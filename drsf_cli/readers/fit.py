"""`drsf weights fit`: a drawer for one's own chain of victims, from one's own faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save as to_bytes

from attacks.drawer import load_drawer
from attacks.fitting.faces import ReadFaces, read_faces
from attacks.fitting.loop import Chain, Settings, Training, hasten
from drsf_cli.progress import SILENT, Progress
from drsf_cli.readers.faces_folder import MOST, check_paths, files_in, frames_of, kept_apart
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import repelled_victims
from drsf_cli.settings import VictimNames
from victims.base import Image
from victims.chains import CHAINS
from victims.observe import Observer
from weights.errors import UsageError
from weights.files import write_atomically

REPEL_WEIGHT = 2.0
"""Of what keeps the others from reading, beside the chain's own victims, each of which has at most 1: at this weight
YuNet saw 6 % of the faces kept out after 25 minutes, where it saw all before (weights/bundled/drawer_mtcnn.md)."""
HELD_OUT_MOST = 48
"""Faces to measure on."""


@dataclass(frozen=True)
class Fitted:
    """What the chain reads from the faces kept out, as drawn, through H.264 at CRF 23, before and after."""

    before: dict[str, float]
    """`found` a share, `iou`, `nme` in %, `gaze` in degrees; `seen NAME`, a share, of each repelled model."""
    after: dict[str, float]
    faces: int
    """Trained on."""


def chain_of(text: str) -> VictimNames:
    """The victims of a chain's name, or of three names joined by `+`. Raises UsageError."""
    if text.strip().lower() in CHAINS:
        return VictimNames.of_chain(text)
    parts = [part.strip() for part in text.split("+")]
    if len(parts) != 3 or not all(parts):
        raise UsageError(
            f"{text} is no chain; it takes {', '.join(CHAINS)}, or DETECTOR+ALIGNER+GAZE, such as "
            "retinaface+fan+eth-xgaze (none for no gaze)."
        )
    return VictimNames().replaced(*parts)


def fit_drawer(
    chain: str,
    data: Path,
    output: Path,
    *,
    minutes: float = Settings.minutes,
    repel: Sequence[str] = (),
    allow_unknown: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Fitted:
    """Train the drawer of `chain` from the faces in the pictures and videos of the folder `data`, and write it.

    It begins with the drawer nearest to the chain, and takes so many `minutes`. Models named in `repel` are kept from
    reading. Raises UsageError, WeightsError, InputError for too few faces, and OutputError.
    """
    if not 0 < minutes < np.inf:
        raise UsageError(f"--minutes {minutes:g} is out of range; it takes more than 0.")
    names = chain_of(chain)
    check_paths(data, output, overwrite)
    victims = _load(names, repel, allow_unknown)
    own, held = _read(data, victims.observer, progress)
    settings = Settings(minutes=minutes, repel_weight=REPEL_WEIGHT if repel else 0.0)
    training = Training(victims, own, held, settings, seed=0)
    training.take_weights(load_drawer(victims.observer.detector.name).network.state_dict())
    before = training.validate()
    progress.begin("Fitting", round(60 * minutes))
    while training.minutes < minutes:
        done = int(60 * training.minutes)
        training.step()
        progress.advance(int(60 * training.minutes) - done)
    write_atomically(output, to_bytes({name: value.contiguous() for name, value in training.average.state.items()}))
    return Fitted(before, training.validate(), len(own))


def _load(names: VictimNames, repel: Sequence[str], allow_unknown: bool) -> Chain:
    models = Models.load(names, "cpu", allow_unknown)
    others = list(repelled_victims(repel, models, allow_unknown).values())
    for victim in others:
        if victim.role == "gaze":
            raise UsageError(f"--repel {victim.name} is no detector or aligner; name one that drsf has.")
    for victim in (*models.torch_chain.victims.values(), *others):
        hasten(victim)
    return Chain(models.torch_chain, others)


def _read(folder: Path, chain: Observer, progress: Progress) -> tuple[ReadFaces, ReadFaces]:
    """The faces to train on, and those to measure on."""
    paths = files_in(folder)
    pictures: list[Image] = []
    by_file: list[list[int]] = []
    progress.begin("Reading files", len(paths))
    for path in paths:
        own = list(frames_of(path)) if len(pictures) < MOST else []
        by_file.append(list(range(len(pictures), len(pictures) + len(own))))
        pictures += own
        progress.advance()
    progress.begin("Looking for faces", len(pictures))
    rows, faces = read_faces(pictures, chain, advance=progress.advance)
    place = {int(row): number for number, row in enumerate(rows)}
    own_rows, held = kept_apart(folder, [[place[row] for row in rows if row in place] for rows in by_file])
    step = -(-len(held) // HELD_OUT_MOST)
    return faces.of(np.array(own_rows)), faces.of(np.array(held[::step]))
