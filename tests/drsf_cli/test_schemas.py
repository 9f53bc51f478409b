"""The published JSON Schemas are those that the commands print, and real files are of them.

The files are held against the schemas by the package jsonschema, which knows nothing of drsf's own types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from attacks.obscure import Pixelate, obscure
from drsf_cli.app import main
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.measure.metrics import METRICS, Errors, ErrorStatistics
from drsf_cli.measure.records import read_observations
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.report.schema import read_report, regions_of
from drsf_cli.settings import DeidSettings
from weights.errors import InputError

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"


def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("kind", ["report", "infer"])
def test_what_is_printed_is_what_is_published(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind, "--schema"]) == 0
    printed = capsys.readouterr().out
    assert printed == (SCHEMAS / f"{kind}.schema.json").read_text("utf-8"), f"drsf {kind} --schema > docs/schemas/..."


def test_every_metric_is_in_the_form_of_the_report() -> None:
    keys = {metric.key for metric in METRICS}
    assert len(keys) == len(METRICS)
    assert set(get_type_hints(Errors)) == keys
    assert set(get_type_hints(ErrorStatistics)) == keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, an output with all that a report may say, one that is covered and no more, and a reading."""
    folder = tmp_path_factory.mktemp("schemas")
    clip = make_demo_clip(folder / "drive.mp4", seconds=0.16, size=(320, 240))
    deidentify(clip, folder / "full.mp4", DeidSettings(effort="fast", embed="all", audit="full"))
    deidentify(clip, folder / "covered.mkv", DeidSettings(attack="none", codec="ffv1"))
    assert main(["infer", str(clip), "-o", str(folder / "drive.json"), "-q"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [("report", "full.mp4.report"), ("report", "covered.mkv.report"), ("infer", "drive")]
)
def test_real_files_are_of_the_published_form(folder: Path, kind: str, name: str) -> None:
    document = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert [error.message for error in validator(kind).iter_errors(document)] == []
    # every key that is written is described: nothing is let through only because unknown keys are
    closed = json.loads((SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    closed = json.loads(json.dumps(closed).replace('"additionalProperties": true', '"additionalProperties": false'))
    if kind == "report":
        del document["settings"]  # they are `DeidSettings`
        closed["required"].remove("settings")
    assert [error.json_path for error in Draft202012Validator(closed).iter_errors(document)] == []


def _set(*place: str | int, to: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in place[:-1]:
            document = document[step]
        if to is ...:
            del document[place[-1]]
        else:
            document[place[-1]] = to

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("input", "sha256", to=...), "input.sha256"),
        (_set("output", "path", to=3), "output.path"),
        (_set("frames", 1, "iou", to="high"), "frames[1].iou"),
        (_set("frames", 1, "frame_id", to=-1), "frames[1].frame_id"),
        (_set("frames", 2, "regions", 0, "rect", to=[1, 2, 3]), "frames[2].regions[0].rect"),
        (_set("frames", 2, "regions", 0, "cell", to=2.5), "frames[2].regions[0].cell"),
        (_set("frames", to={}), "frames"),
        (_set("fidelity", "recovered", to=...), "fidelity.recovered"),
        (_set("fidelity", "recovered", "nme", to={"mean": 1.0}), "fidelity.recovered.nme.median"),
        (_set("victims", "detector", "weights", "x", to=None), "victims.detector.weights.x"),
        (_set("audit", "passed", to="yes"), "audit.passed"),
        (_set("audit", "exposures", to=[{"frame": 1}]), "audit.exposures[0].detector"),
        (_set("leakage", "models", 0, "repelled", to=...), "leakage.models[0].repelled"),
        (_set("samples", 0, "original", "bboxes", to=[1, 2]), "samples[0].original.bboxes"),
        (_set("cost", "seconds_per_frame", to=True), "cost.seconds_per_frame"),
    ],
)
def test_a_wrong_report_is_refused_by_both(
    folder: Path, tmp_path: Path, change: Callable[[Any], None], field: str
) -> None:
    document = json.loads((folder / "full.mp4.report.json").read_text("utf-8"))
    change(document)
    assert not validator("report").is_valid(document)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError) as caught:
        read_report(path)
    assert str(caught.value).startswith(f"{path}: {field} ")
    assert str(caught.value).endswith("; give a report that `drsf deid` wrote.")
    assert str(caught.value).count("\n") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set(0, "frame_id", to=-1), "entry 0: frame_id"),
        (_set(1, "bboxes", to=...), "frame 1: bboxes"),
        (_set(1, "landmarks", 67, to=[1.0]), "frame 1: landmarks[67]"),
        (_set(1, "gaze_vector", to=[1.0]), "frame 1: gaze_vector"),
        (_set(1, "pts", to="late"), "frame 1: pts"),
        (_set(2, "faces", to=[{"score": 1}]), "frame 2: faces[0].bboxes"),
        (_set(2, to=7), "entry 2"),
    ],
)
def test_a_wrong_reading_is_refused_by_both(
    folder: Path, tmp_path: Path, change: Callable[[Any], None], field: str
) -> None:
    document = json.loads((folder / "drive.json").read_text("utf-8"))
    change(document)
    assert not validator("infer").is_valid(document)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError) as caught:
        read_observations(path)
    assert field in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.slow
def test_keys_of_another_version_are_let_through(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "full.mp4.report.json").read_text("utf-8"))
    document["frames"][0]["new"] = document["new"] = {"of": "a later version"}
    for frame in document["frames"]:
        del frame["regions"]  # which an earlier version did not write
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document), "utf-8")
    assert validator("report").is_valid(document)
    assert read_report(path) == document


# ------------------------------------------------------------------------------------------ each frame's regions


@pytest.mark.slow
def test_the_regions_are_what_the_file_hides(folder: Path) -> None:
    """Nothing was embedded and nothing lost: obscuring them in the original gives the file, pixel for pixel."""
    frames = read_report(folder / "covered.mkv.report.json")["frames"]
    readers = VideoReader(folder / "drive.mp4"), VideoReader(folder / "covered.mkv")
    hidden = 0
    for entry, before, after in zip(frames, *readers, strict=True):
        regions = regions_of(entry)
        hidden += bool(regions)
        assert np.array_equal(obscure(before.image, regions, Pixelate(5)), after.image)
    assert hidden == len(frames) == 4


def _audited(folder: Path, written: Path, figures: Path, *more: str) -> dict[str, Any]:
    arguments = ["audit", str(folder / "drive.mp4"), str(written), "--against", "lbp-cascade", "-q", *more]
    assert main([*arguments, "--json", str(figures), "--overwrite"]) == 0
    return json.loads(figures.read_text("utf-8"))


@pytest.mark.slow
def test_the_audit_surveys_only_where_the_report_lacks_the_regions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drsf_cli.deid import work

    surveys = []
    survey_video = work.survey_video
    monkeypatch.setattr(work, "survey_video", lambda *args: surveys.append(1) or survey_video(*args))
    known = _audited(folder, folder / "full.mp4", tmp_path / "known.json")
    assert surveys == []
    older = json.loads((folder / "full.mp4.report.json").read_text("utf-8"))
    for frame in older["frames"]:
        del frame["regions"]
    (tmp_path / "older.json").write_text(json.dumps(older), "utf-8")
    again = _audited(folder, folder / "full.mp4", tmp_path / "again.json", "--report", str(tmp_path / "older.json"))
    assert surveys == [1]
    assert again == known
    _audited(folder, folder / "full.mp4", tmp_path / "solid.json", "--mask", "solid")
    assert surveys == [1, 1], "regions of blocks do not fit another mask"
    panels = tmp_path / "panels.mp4"
    assert main(["viz", str(folder / "full.mp4"), "--compare", str(folder / "drive.mp4"), "-o", str(panels), "-q"]) == 0
    assert surveys == [1, 1]


@pytest.mark.slow
def test_heads_that_are_open_are_seen_whatever_the_report_says(folder: Path, tmp_path: Path) -> None:
    """A file in which every head is open, with the report of the run that covered them: others see the driver."""
    opened = tmp_path / "open.mp4"
    opened.write_bytes((folder / "drive.mp4").read_bytes())
    (tmp_path / "open.mp4.report.json").write_bytes((folder / "covered.mkv.report.json").read_bytes())
    covered = _audited(folder, folder / "covered.mkv", tmp_path / "covered.json")
    found = _audited(folder, opened, tmp_path / "open.json")
    own, lbp = found["models"]
    assert own["columns"]["written"]["detected"] == 1
    assert own["columns"]["written"]["iou"] == pytest.approx(1)
    assert lbp["columns"]["written"]["frames"] > 0
    assert lbp["columns"]["written"]["detected"] == 1
    assert covered["models"][0]["columns"]["written"]["detected"] < 1
    # regions that a report only claims are not believed of the file either
    lying = json.loads((tmp_path / "open.mp4.report.json").read_text("utf-8"))
    for frame in lying["frames"]:
        frame["regions"] = []
    (tmp_path / "open.mp4.report.json").write_text(json.dumps(lying), "utf-8")
    again = _audited(folder, opened, tmp_path / "lying.json")
    assert again["models"][0]["columns"]["written"]["detected"] == 1
