"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from drsf_cli.app import main
from drsf_cli.measure.evaluation import (
    evaluate,
    evaluate_files,
    evaluate_folders,
)
from drsf_cli.measure.evaluation_files import evaluation_to_dict, plot_errors, write_csv, write_plots
from drsf_cli.measure.records import write_observations
from victims.face import Array, Face, FrameObservation
from weights.errors import InputError, OutputError

GRID = np.stack(np.meshgrid(np.arange(17.0), np.arange(4.0)), axis=-1).reshape(68, 2)


def face(
    box: tuple[float, float, float, float] = (0, 0, 40, 10),
    shift: tuple[float, float] = (0, 0),
    gaze: tuple[float, float, float] | None = (0, 0, -1),
    euler: tuple[float, float, float] | None = (0, 0, 0),
) -> Face:
    def array(values: tuple[float, ...] | None) -> Array | None:
        return None if values is None else np.array(values, dtype=np.float64)

    return Face(np.array(box, dtype=np.float64), 0.9, GRID + np.array(shift), array(euler), array(gaze))


def frame(index: int, *faces: Face) -> FrameObservation:
    return FrameObservation(index, index / 10, faces)


def test_one_frame_by_hand() -> None:
    """Boxes 40x10 and 40x10 moved by 10 px: 300 / 500. Landmarks moved by (3, 4): 5 px, 25 % of sqrt(400).
    Gaze turned by 60°: cosine distance 0.5. Head turned by 90° about x."""
    gaze = (math.sin(math.radians(60)), 0, -math.cos(math.radians(60)))
    truth = face()
    prediction = face(box=(10, 0, 50, 10), shift=(3, 4), gaze=gaze, euler=(90, 0, 0))
    [row] = evaluate([frame(0, truth)], [frame(0, prediction)]).frames
    assert row.errors["iou"] == pytest.approx(0.6)
    assert row.errors["landmarks_px"] == pytest.approx(5)
    assert row.errors["nme"] == pytest.approx(25)
    assert row.errors["gaze_deg"] == pytest.approx(60)
    assert row.errors["gaze_cosine"] == pytest.approx(0.5)
    assert row.errors["head_pose_deg"] == pytest.approx(90)
    assert (
        row.errors["head_pose_x_deg"],
        row.errors["head_pose_y_deg"],
        row.errors["head_pose_z_deg"],
    ) == pytest.approx((90, 0, 0))
    assert row.errors["diff_score"] == pytest.approx(0.4 + 5 + 60)


def test_the_ground_truth_gives_the_size_and_is_never_swapped() -> None:
    """Moved by (3, 4) px = 5 px. Truth 40x10: 5 / 20; the other way round 10x10: 5 / 10."""
    a, b = face(), face(box=(0, 0, 10, 10), shift=(3, 4))
    assert evaluate([frame(0, a)], [frame(0, b)]).frames[0].errors["nme"] == pytest.approx(25)
    assert evaluate([frame(0, b)], [frame(0, a)]).frames[0].errors["nme"] == pytest.approx(50)
    forth, back = evaluate([frame(0, a)], [frame(0)]), evaluate([frame(0)], [frame(0, a)])
    assert (forth.missed, forth.extra) == ((0,), ())
    assert (back.missed, back.extra) == ((), (0,))


def test_head_pose_error_is_the_angle_of_the_rotation_between() -> None:
    """Euler angles near the 180° seam and at the middle axis' pole differ by more than the rotation does."""
    seam = evaluate([frame(0, face(euler=(179, 0, 0)))], [frame(0, face(euler=(-179, 0, 0)))]).frames[0]
    assert seam.errors["head_pose_deg"] == pytest.approx(2)
    assert seam.errors["head_pose_x_deg"] == pytest.approx(2)
    # At b = 90° R = Rx(a) Ry(90°) Rz(c) depends on a + c only: both are the same rotation.
    pole = evaluate([frame(0, face(euler=(10, 90, 20)))], [frame(0, face(euler=(20, 90, 10)))]).frames[0]
    assert pole.errors["head_pose_deg"] == pytest.approx(0, abs=1e-5)
    assert pole.errors["head_pose_z_deg"] == pytest.approx(10)


def test_frames_are_paired_by_id_not_by_place_in_the_list() -> None:
    moved = face(shift=(0, 8))
    result = evaluate([frame(2, moved), frame(0, face()), frame(9)], [frame(0, face()), frame(2, moved), frame(4)])
    assert [row.frame_id for row in result.frames] == [0, 2]
    assert [row.errors["landmarks_px"] for row in result.frames] == [0, 0]
    assert (result.only_in_gt, result.only_in_pred) == ((9,), (4,))


def test_summaries_by_hand() -> None:
    """Landmark distances 0, 1, ... 20 px: mean and median 10, 95th percentile 19, worst 20 in frame 120."""
    truth = [frame(100 + i, face()) for i in range(21)]
    prediction = [frame(100 + i, face(box=(0, 0, 40, 10 - i / 4), shift=(i, 0))) for i in range(21)]
    summaries = evaluate(truth, prediction).summaries
    px = summaries["landmarks_px"]
    assert (px.frames, px.mean, px.median, px.p95, px.worst, px.worst_frame) == pytest.approx((21, 10, 10, 19, 20, 120))
    # IoU 1, 0.975, ... 0.5: the worst is the least, and 95 % of frames have 0.525 or more.
    iou = summaries["iou"]
    assert (iou.mean, iou.median, iou.p95, iou.worst, iou.worst_frame) == pytest.approx((0.75, 0.75, 0.525, 0.5, 120))


def test_a_missed_frame_is_neither_zero_nor_forgotten() -> None:
    """Truth 30x40 px has a diagonal of 50. Found frame: IoU 1, 2 px, 0°: 2. Missed: 1 + 50 + 180."""
    truth = [frame(0, face(box=(0, 0, 30, 40))), frame(1, face(box=(0, 0, 30, 40))), frame(2)]
    prediction = [frame(0, face(box=(0, 0, 30, 40), shift=(2, 0))), frame(1), frame(2, face())]
    result = evaluate(truth, prediction)
    assert (len(result.frames), result.compared, result.missed, result.extra) == (3, 1, (1,), (2,))
    assert result.frames[1].errors == {}
    assert result.summaries["diff_score"].mean == pytest.approx(2)
    assert result.summaries["diff_score"].frames == 1
    assert result.diff_score_with_misses == pytest.approx((2 + 231) / 2)


def test_what_a_file_lacks_is_not_scored() -> None:
    result = evaluate([frame(0, face(euler=None))], [frame(0, face(gaze=None))])
    assert set(result.summaries) == {"iou", "landmarks_px", "nme"}
    assert result.diff_score_with_misses is None
    nothing = evaluate([frame(0, face())], [frame(0)])
    assert (nothing.summaries, nothing.diff_score_with_misses) == ({}, None)


def test_the_frames_own_faces_are_compared_and_a_better_fit_is_told() -> None:
    truth = face(box=(0, 0, 40, 10))
    result = evaluate([frame(0, truth)], [frame(0, face(box=(100, 0, 160, 10)), truth)])
    assert result.frames[0].errors["iou"] == 0
    assert result.other_face == (0,)
    assert evaluate([frame(0, truth)], [frame(0, truth)]).other_face == ()


def test_lists_without_a_common_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have no frame_id in common"):
        evaluate([frame(0, face())], [frame(1, face())])
    write_observations(tmp_path / "gt.json", [frame(0, face())])
    write_observations(tmp_path / "pred.json", [])
    with pytest.raises(InputError, match=r"pred\.json: .*\(1 frames\).*\(0 frames\)"):
        evaluate_files(tmp_path / "gt.json", tmp_path / "pred.json")


def test_frames_numbered_from_one_are_told_and_moved(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Frame k of the prediction, which counts from 1 and begins with a BOM, is frame k - 1 of the ground truth."""
    truth = [frame(k, face(shift=(k, 0))) for k in range(5)]
    moved = [frame(k + 1, face(shift=(k, 0))) for k in range(5)]
    write_observations(tmp_path / "gt.json", truth)
    write_observations(tmp_path / "pred.json", moved)
    (tmp_path / "pred.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "pred.json").read_bytes())
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    assert evaluate_files(gt, pred).likely_offset == -1
    assert evaluate_files(pred, gt).likely_offset == 1
    assert evaluate_files(gt, pred).summaries["landmarks_px"].mean == pytest.approx(1.0)
    right = evaluate_files(gt, pred, -1)
    assert (right.compared, right.summaries["landmarks_px"].mean, right.likely_offset) == (5, 0.0, 0)
    assert evaluate(truth, truth).likely_offset == 0
    assert evaluate(truth, moved[:4]).likely_offset == 0
    assert main(["eval", str(gt), str(pred)]) == 0
    assert "give --offset -1" in capsys.readouterr().err
    assert main(["eval", str(gt), str(pred), "--offset", "-1"]) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match="or --offset -1"):
        evaluate(truth[:1], moved[:1])


def test_folders_are_paired_by_name_and_pooled(tmp_path: Path) -> None:
    """Clip a: 0 px over one frame; clip b: 3 and 6 px. Pooled over frames, not over files: mean 3."""
    gt, pred = tmp_path / "gt", tmp_path / "pred"
    gt.mkdir()
    pred.mkdir()
    write_observations(gt / "a.json", [frame(0, face())])
    write_observations(pred / "a.json", [frame(0, face())])
    write_observations(gt / "b.json", [frame(0, face()), frame(1, face()), frame(2, face())])
    write_observations(pred / "b.json", [frame(0, face(shift=(3, 0))), frame(1, face(shift=(0, 6))), frame(2)])
    write_observations(gt / "only.json", [frame(0, face())])
    result = evaluate_folders(gt, pred)
    assert list(result.files) == ["a.json", "b.json"]
    assert (result.only_in_gt, result.only_in_pred) == (("only.json",), ())
    assert (result.compared, result.missed, result.extra) == (3, 1, 0)
    pooled = result.summaries["landmarks_px"]
    assert (pooled.mean, pooled.worst, pooled.worst_frame) == pytest.approx((3, 6, 1))
    assert pooled.worst_file == "b.json"
    assert result.files["b.json"].summaries["landmarks_px"].worst_file is None
    rows = _rows(tmp_path / "rows.csv", result)
    assert [(row["file"], row["frame_id"], row["landmarks_px"]) for row in rows] == [
        ("a.json", "0", "0"),
        ("b.json", "0", "3"),
        ("b.json", "1", "6"),
        ("b.json", "2", ""),
    ]
    with pytest.raises(InputError, match="is not a folder"):
        evaluate_folders(gt / "a.json", pred)
    with pytest.raises(InputError, match="no JSON file has the same name in both folders"):
        evaluate_folders(gt, tmp_path)


def _rows(path: Path, evaluation: object) -> list[dict[str, str]]:
    write_csv(path, evaluation)  # type: ignore[arg-type]
    return list(csv.DictReader(path.open(newline="")))


def test_the_outputs(tmp_path: Path) -> None:
    truth = [frame(i, face()) for i in range(4)]
    prediction = [frame(0, face()), frame(1, face(shift=(3, 4))), frame(2), frame(3, face())]
    result = evaluate(truth, prediction)
    data = json.loads(json.dumps(evaluation_to_dict(result), allow_nan=False))
    assert data["missed_in_prediction"] == [2]
    assert data["frames_compared"] == 3
    assert data["metrics"]["landmarks_px"]["worst_frame"] == 1
    assert data["metrics"]["landmarks_px"]["unit"] == "px"
    rows = _rows(tmp_path / "rows.csv", result)
    assert [row["landmarks_px"] for row in rows] == ["0", "5", "", "0"]
    assert [row["in_pred"] for row in rows] == ["1", "1", "0", "1"]
    plot_errors(result, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture is not None
    assert picture.std() > 5, "the picture is blank"
    with pytest.raises(OutputError, match=r"ends in \.png"):
        write_plots(result, tmp_path / "plot.jpg")


def make_tree(tmp_path: Path) -> None:
    """A tree of readings, with a report of `drsf deid` beside one of them, which is no reading."""
    for folder, shift in (("gt", 0.0), ("pred", 10.0)):
        for name in ("a.json", "monday/b.json"):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_observations(path, [frame(0, Face(np.array([shift, 0, 100 + shift, 100]), 1.0))])
        (tmp_path / folder / "a.mp4.report.json").write_text("{}")


def test_folders_are_read_to_the_bottom_and_each_pair_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_tree(tmp_path)
    result = evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    assert set(result.files) == {"a.json", "monday/b.json"}
    assert main(["eval", str(tmp_path / "gt"), str(tmp_path / "pred")]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "0.818" in line]
    assert len(rows) == 3, "90 of 110: of all, and of each file"


@pytest.mark.slow
def test_each_pair_of_folders_has_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In a folder, placed as the pairs are; an older one is kept unless it may be replaced."""
    make_tree(tmp_path)
    plots = tmp_path / "plots"
    command = ["eval", str(tmp_path / "gt"), str(tmp_path / "pred"), "--plot"]
    assert main([*command, str(plots)]) == 0
    found = sorted(path for path in plots.rglob("*") if path.is_file())
    assert [path.relative_to(plots).as_posix() for path in found] == ["a.png", "monday/b.png"]
    assert all(picture is not None and picture.std() > 5 for picture in map(cv2.imread, map(str, found)))
    found[0].write_bytes(b"older")
    found[1].unlink()
    assert main([*command, str(plots)]) == 4
    assert "a.png exists already" in capsys.readouterr().err
    assert not found[1].exists()
    assert main([*command, str(plots), "--overwrite"]) == 0
    assert found[0].read_bytes().startswith(b"\x89PNG")
    assert main([*command, str(tmp_path / "one.png")]) == 4
    assert main([*command, str(tmp_path / "none" / "plots")]) == 4
    assert not (tmp_path / "none").exists()
