"""Makes what the pages show with the tool as it is: the pictures, and the notebook's outputs.

    make docs

Only the public-domain portrait of the demo clip is in either.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
from nbclient import NotebookClient
from numpy.typing import NDArray
from PIL import Image

from drsf_cli import DeidSettings, Models, compare, deidentify, make_demo_clip
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Silent

HERE = Path(__file__).parent
PICTURE = HERE / "images" / "three_panels.jpg"
PERTURBATION = HERE / "images" / "perturbation.jpg"
NOTEBOOK = HERE / "demo.ipynb"
SECONDS = 0.24
WIDTH = 1400
"""Of a picture, px."""
GAIN = 4
"""How much stronger the perturbation is shown than it is."""


def make_picture(target: Path, seconds: float = SECONDS) -> None:
    """The last frame of a demo clip: original, obscured, obscured and perturbed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_demo_clip(folder / "driver.mp4", seconds=seconds)
        settings = DeidSettings()
        models = Models.load(settings.victims, settings.device)
        deidentify(clip, folder / "driver_deid.mp4", settings, models=models)
        compare(clip, folder / "driver_deid.mp4", folder / "panels.mp4", models)
        *_, last = VideoReader(folder / "panels.mp4")
    save(last.image, target)


def make_perturbation(target: Path, seconds: float = SECONDS) -> None:
    """Draw the head in the last frame of a demo clip before it is encoded.

    Four pictures: original, obscured, perturbed, and the perturbation alone, amplified around grey.
    """
    with TemporaryDirectory() as name:
        work = Work.on(make_demo_clip(Path(name) / "driver.mp4", seconds=seconds), DeidSettings())
        survey = work.survey(Silent())
        clip = work.clip(survey, work.cover(survey))
        *_, (frame, image, embedded) = work.embed(clip, Silent())
        covered = clip.covered(frame)
    (one,) = embedded.values()
    change = 127 + GAIN * (image.astype(int) - covered)
    panels = [frame.image, covered, image, change.clip(0, 255).astype(np.uint8)]
    save(np.concatenate([one.window.cut(panel) for panel in panels], axis=1), target)


def save(image: NDArray[np.uint8], target: Path) -> None:
    """(H, W, 3) RGB as a JPEG of WIDTH."""
    picture = Image.fromarray(image)
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    target.parent.mkdir(exist_ok=True)
    picture.save(target, quality=82, optimize=True)


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook, run top to bottom in `folder`; warnings, which name this machine's folders, are left out."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources=place).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    make_picture(PICTURE)
    make_perturbation(PERTURBATION)
    with TemporaryDirectory() as name:
        nbformat.write(run_notebook(NOTEBOOK, Path(name)), NOTEBOOK)
