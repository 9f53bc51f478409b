"""An evaluation as JSON, CSV and plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drsf_cli.measure.behaviour import behaviour_to_dict
from drsf_cli.measure.evaluation import Evaluation, FolderEvaluation, FrameErrors, Summary, value_of
from drsf_cli.measure.metrics import COMPARABLE, METRICS
from weights.errors import OutputError
from weights.files import make_folder, write_atomically


def evaluation_to_dict(evaluation: Evaluation | FolderEvaluation) -> dict[str, Any]:
    """The result for JSON, but not the rows of all frames.

    It has counts, the frames that were counted, and each metric's summary with its unit.
    """
    summaries = _summaries_to_dict(evaluation.summaries)
    seen = None if evaluation.behaviour is None else behaviour_to_dict(evaluation.behaviour)
    if isinstance(evaluation, FolderEvaluation):
        return {
            "files": {name: evaluation_to_dict(one) for name, one in evaluation.files.items()},
            "frames_compared": evaluation.compared,
            "frames_missed": evaluation.missed,
            "frames_extra": evaluation.extra,
            "files_only_in_ground_truth": list(evaluation.only_in_gt),
            "files_only_in_prediction": list(evaluation.only_in_pred),
            "metrics": summaries,
            "behaviour": seen,
        }
    return {
        "frames_in_both": len(evaluation.frames),
        "frames_compared": evaluation.compared,
        "missed_in_prediction": list(evaluation.missed),
        "extra_in_prediction": list(evaluation.extra),
        "only_in_ground_truth": list(evaluation.only_in_gt),
        "only_in_prediction": list(evaluation.only_in_pred),
        "another_face_fits_better": list(evaluation.other_face),
        "diff_score_with_misses": evaluation.diff_score_with_misses,
        "metrics": summaries,
        "other_faces": None
        if evaluation.others is None
        else {
            "faces": evaluation.others.faces,
            "missed": evaluation.others.missed,
            "metrics": _summaries_to_dict(evaluation.others.summaries),
        },
        "behaviour": seen,
    }


def _summaries_to_dict(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {
        metric.key: {
            "title": metric.title,
            "unit": metric.unit,
            **{key: value for key, value in asdict(summaries[metric.key]).items() if value is not None},
        }
        for metric in METRICS
        if metric.key in summaries
    }


def write_csv(path: str | Path, evaluation: Evaluation | FolderEvaluation) -> None:
    """Write one row for each frame of both lists; unknown values are empty.

    The file is written completely or not at all. Raises OutputError.
    """
    columns = ["frame_id", "pts", "in_gt", "in_pred", *(metric.key for metric in METRICS)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if isinstance(evaluation, FolderEvaluation):
        writer.writerow(["file", *columns])
        rows = [(name, frame) for name, one in evaluation.files.items() for frame in one.frames]
        writer.writerows([name, *_cells(frame)] for name, frame in rows)
    else:
        writer.writerow(columns)
        writer.writerows(_cells(frame) for frame in evaluation.frames)
    write_atomically(path, text.getvalue())


def _cells(frame: FrameErrors) -> list[str]:
    cells = []
    errors = [value_of(frame, metric) for metric in METRICS]
    for value in (frame.frame_id, frame.pts, frame.in_gt, frame.in_pred, *errors):
        if isinstance(value, bool):
            cells.append(str(int(value)))
        elif value is None or (isinstance(value, float) and math.isnan(value)):
            cells.append("")
        else:
            cells.append(f"{value:.6g}" if isinstance(value, float) else str(value))
    return cells


def plot_paths(evaluation: Evaluation | FolderEvaluation, path: Path) -> dict[Path, Evaluation]:
    """Where the curves go: to the PNG `path`, or for folders to a PNG for each pair.

    Those lie below the folder `path`, with the pair's name and place. Raises OutputError for a name that does not fit,
    or a folder that does not exist.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder; make it first.")
    if isinstance(evaluation, Evaluation):
        if path.suffix.lower() != ".png":
            raise OutputError(f"{path}: plots are PNG; give a name that ends in .png.")
        return {path: evaluation}
    if path.suffix.lower() == ".png" or path.is_file():
        raise OutputError(f"{path}: each pair has a plot of its own; name a folder for them.")
    return {path / Path(name).with_suffix(".png"): one for name, one in evaluation.files.items()}


def write_plots(evaluation: Evaluation | FolderEvaluation, path: Path) -> None:
    """Draw the error curves to the places of `plot_paths`, making folders below `path`. Raises OutputError."""
    for place, one in plot_paths(evaluation, path).items():
        make_folder(place.parent, "--plot")
        plot_errors(one, place)


def plot_errors(evaluation: Evaluation, path: str | Path) -> None:
    """IoU, NME, gaze and head pose over the frames, missed frames marked, as PNG. Raises OutputError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.1 * len(COMPARABLE)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(COMPARABLE), 1, sharex=True)
    ids = [frame.frame_id for frame in evaluation.frames]
    for axis, metric in zip(axes, COMPARABLE, strict=True):
        values = [value_of(frame, metric) for frame in evaluation.frames]
        axis.plot(ids, [math.nan if v is None else v for v in values], ".-", markersize=3, linewidth=0.8)
        for position, frame_id in enumerate(evaluation.missed):
            axis.axvline(frame_id, color="tab:red", alpha=0.3, label="missed" if position == 0 else None)
        axis.set_ylabel(f"{metric.title} {f'[{metric.unit}]' if metric.unit else ''}".strip(), fontsize=8)
        axis.grid(alpha=0.3)
        if metric.key in evaluation.summaries:
            summary = evaluation.summaries[metric.key]
            axis.set_title(
                f"mean {summary.mean:.4g}, worst {summary.worst:.4g} (frame {summary.worst_frame})",
                fontsize=8,
                loc="right",
            )
    if evaluation.missed:
        axes[0].legend(fontsize=8)
    axes[-1].set_xlabel("frame_id")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(path, image.getvalue())
