"""Many inputs in one run: what is skipped, what stops nothing, what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drsf_cli.app import main
from drsf_cli.batch.resume import clear_leftovers, finished
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.progress import Told
from tests.drsf_cli.many import COUNT, FLAGS, MIN_FACE, contents, job_of, make_clips
from weights.catalog import catalog
from weights.errors import DrsfError
from weights.store import default_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GAZE = default_store().path(catalog()["gaze_compact.safetensors"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Nine clips of two frames in two folders, no two alike."""
    return make_clips(tmp_path_factory.mktemp("clips") / "in", COUNT)


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main(["deid", str(clips), "-o", str(folder), *FLAGS]) == 0
    return folder


def stamps(folder):
    """Which files lie under which names, and since when."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*_deid.mp4")}


def summary(folder):
    return json.loads((folder / "drsf-summary.json").read_text())


@pytest.mark.timeout(900)
def test_killed_in_the_middle_and_resumed(clips, undisturbed, tmp_path):
    """The outputs are those of the undisturbed run, byte for byte, and what was finished is not done again."""
    folder, after = tmp_path / "out", 3
    arguments = ["deid", str(clips), "-o", str(folder), *FLAGS, "--resume"]
    command = [sys.executable, "-c", "from drsf_cli.app import main; main()", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        until = time.monotonic() + 600
        while len(stamps(folder)) < after:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    # as if it had been at the summary, too
    (folder / ".drsf-summary.json.0123abcd.part").write_bytes(b"{")
    before = stamps(folder)
    assert after <= len(before) < COUNT
    assert all(Path(f"{path}.report.json").is_file() for path in before)

    assert main(arguments) == 0
    assert contents(folder) == contents(undisturbed)
    assert {path: stamps(folder)[path] for path in before} == before
    counts = summary(folder)
    assert (counts["skipped"], counts["done"], counts["failed"]) == (len(before), COUNT - len(before), 0)

    everything = stamps(folder)
    assert main(arguments) == 0
    assert stamps(folder) == everything
    assert summary(folder)["skipped"] == COUNT


def test_shards_together_are_the_whole(clips, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    for number in (1, 2):
        assert main(["deid", str(clips), "-o", str(folder), *FLAGS, "--shard", f"{number}/3"]) == 0
    for name, value in (("ID", 12), ("MIN", 10), ("COUNT", 3)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert main(["deid", str(clips), "-o", str(folder), *FLAGS, "--shard", "slurm"]) == 0
    assert contents(folder) == contents(undisturbed)
    shares = [json.loads(path.read_text()) for path in sorted(folder.glob("drsf-summary.*.json"))]
    assert [share["shard"] for share in shares] == ["1/3", "2/3", "3/3"]
    assert sum(share["done"] for share in shares) == COUNT


# -- what counts as finished ------------------------------------------------------------------------------------------


@pytest.fixture
def one(clips, undisturbed, tmp_path):
    """A copy of one input and of all that was written for it."""
    source = tmp_path / "c00.mp4"
    shutil.copy(clips / "a" / "c00.mp4", source)
    for path in (undisturbed / "a").glob("c00_deid.mp4*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def resume(folder, *more):
    return main(["deid", str(folder / "c00.mp4"), "-o", str(folder / "c00_deid.mp4"), *FLAGS, "--resume", *more])


def test_finished_is_finished(one, capsys):
    before = stamps(one)
    assert finished(job_of(one / "c00.mp4", one / "c00_deid.mp4")) is not None
    assert resume(one) == 0
    assert stamps(one) == before


@pytest.mark.parametrize("what", ["input", "output", "settings", "version", "report", "no report"])
def test_never_by_name_alone(what, one, clips, capsys):
    """Whatever differs makes it unfinished; what is there is replaced only when asked."""
    report, more = one / "c00_deid.mp4.report.json", []
    match what:
        case "input":
            shutil.copy(clips / "b" / "c01.mp4", one / "c00.mp4")
        case "output":
            (one / "c00_deid.mp4").write_bytes((one / "c00_deid.mp4").read_bytes() + b"\0")
        case "settings":
            more = ["--crf", "30"]
        case "version":
            report.write_text(json.dumps(json.loads(report.read_text()) | {"drsf": "0.0.1"}))
        case "report":
            report.write_text('{"drsf": [')
        case "no report":
            report.unlink()
    before = (one / "c00_deid.mp4").read_bytes()
    assert resume(one, *more) == 4
    assert "exists already; pass --overwrite" in " ".join(capsys.readouterr().err.split())
    assert (one / "c00_deid.mp4").read_bytes() == before
    assert resume(one, *more, "--overwrite") == 0
    document = json.loads(report.read_text())
    assert document["settings"]["crf"] == (30 if more else 23)
    made = stamps(one)
    assert resume(one, *more) == 0
    assert stamps(one) == made


def save_noisy(state, path, seed):
    """Weights of the user's own: other ones for each seed."""
    random = torch.Generator().manual_seed(seed)
    save_file(
        {k: v + 0.01 * torch.randn(v.shape, generator=random) if v.ndim > 1 else v for k, v in state.items()}, path
    )


@pytest.mark.parametrize(
    ("flag", "name", "more"),
    [
        ("-z", "gaze-compact", ["-g", "none"]),
        ("--repel", "gaze-compact", []),
    ],
)
def test_weights_of_ones_own_that_changed_are_not_finished(flag, name, more, clips, tmp_path, capsys):
    """Trained on under the same name, between the two runs."""
    state = load_file(GAZE)
    own = tmp_path / "own.safetensors"
    save_noisy(state, own, 1)
    flags = [flag, f"{name}@{own}", *more, "--allow-unknown-weights", "--min-face", str(MIN_FACE), "--quiet"]
    arguments = ["deid", str(clips / "a" / "c00.mp4"), "-o", str(tmp_path / "out.mp4"), *flags, "--resume"]
    assert main(arguments) == 0
    before = (tmp_path / "out.mp4").stat().st_mtime_ns
    assert main(arguments) == 0
    assert "is finished already" in capsys.readouterr().out
    save_noisy(state, own, 2)
    assert main(arguments) == 4, "not finished, and not replaced unasked"
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "out.mp4").stat().st_mtime_ns > before


def test_a_page_that_a_kill_prevented_is_made(one):
    """A kill after the output got its name, and before the page, the last of the files, did."""
    report = one / "c00_deid.mp4.report.json"
    document = json.loads(report.read_text())
    document["settings"]["html"] = True
    report.write_text(json.dumps(document))
    before = stamps(one)
    assert resume(one, "--html") == 0
    page = one / "c00_deid.mp4.report.html"
    assert "c00_deid.mp4" in page.read_text()
    made = page.stat().st_mtime_ns
    assert resume(one, "--html") == 0
    assert page.stat().st_mtime_ns == made
    assert stamps(one) == before


def test_leftovers_of_a_kill_are_cleared_and_nothing_else(one, undisturbed):
    """A kill just before the output got its name: report and sheet are there, the output is still hidden."""
    (one / "c00_deid.mp4").rename(one / ".c00_deid.0123abcd.part.mp4")
    (one / ".c00_deid.mp4.report.0123abcd.part.json").write_text("{")
    (one / ".c00_deid.mp4.audit.png.0123abcd.part").write_bytes(b"")
    others = (".c01_deid.0123abcd.part.mp4", ".c00_deid.mp4", "c00_deid.mp4.notes", ".c00_deid.0123abcd.part.mkv")
    for name in others:
        (one / name).write_bytes(b"mine")
    assert resume(one) == 0
    names = {path.name for path in one.iterdir()}
    wanted = {"c00.mp4", "c00_deid.mp4", "c00_deid.mp4.report.json", "c00_deid.mp4.audit.png", *others}
    assert names == wanted
    assert (one / "c00_deid.mp4").read_bytes() == (undisturbed / "a" / "c00_deid.mp4").read_bytes()


def test_a_report_of_something_else_is_left_alone(one):
    job = job_of(one / "c00.mp4", one / "c00_deid.mp4")
    job.output.unlink()
    job.report.write_text('{"my": "notes"}')
    clear_leftovers(job)
    assert job.report.read_text() == '{"my": "notes"}'


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_one_bad_file_stops_nothing_else_and_comes_last(clips, tmp_path, capsys, monkeypatch):
    """A file that is no video, one without a face, and a fault of the program in a third."""
    folder = tmp_path / "in"
    shutil.copytree(clips / "b", folder)
    (folder / "a_text.mp4").write_text("not a video\n" * 50)
    make_demo_clip(folder / "m_fault.mp4", seconds=0.08, size=(160, 120), seed=5)
    import drsf_cli.batch.run as batch

    real = batch.deidentify

    def faulty(source, *arguments, **given):
        if source.name == "m_fault.mp4":
            raise ZeroDivisionError("planted")
        return real(source, *arguments, **given)

    monkeypatch.setattr(batch, "deidentify", faulty)
    out = tmp_path / "out"
    assert main(["deid", str(folder), "-o", str(out), "--attack", "none"]) == 10
    good = len(list((clips / "b").iterdir()))
    document = summary(out)
    assert (document["done"], document["failed"], document["not_reached"]) == (good, 2, 0)
    last = document["files"][-2:]
    assert [Path(row["input"]).name for row in last] == ["a_text.mp4", "m_fault.mp4"]
    assert [row["exit_code"] for row in last] == [3, 1]
    assert "ZeroDivisionError: planted" in last[1]["traceback"]
    assert len(list(out.glob("*_deid.mp4"))) == good
    assert not list(out.glob(".*"))
    printed = capsys.readouterr()
    table = printed.out
    assert table.index("c01.mp4") < table.index("a_text.mp4")
    assert f"{good + 2} inputs: {good} done, 0 skipped, 2 failed" in table
    assert f"2 of {good + 2} inputs failed" in printed.err
    assert "Traceback" not in printed.err

    with pytest.raises(DrsfError, match="2 of 2 inputs failed"):
        main(["--debug", "deid", *(str(folder / name) for name in ("a_text.mp4", "m_fault.mp4")), "--attack", "none"])
    shown = capsys.readouterr().err
    assert shown.count("Traceback") == 1
    assert 'raise ZeroDivisionError("planted")' in shown


def test_named_files_without_a_folder_lie_beside_their_inputs(clips, tmp_path, capsys):
    """The table tells of them; there is no place for a summary."""
    named = [shutil.copy(clips / "b" / f"c0{number}.mp4", tmp_path / f"{number}.mp4") for number in (1, 3)]
    assert main(["deid", *map(str, named), "--attack", "none"]) == 0
    printed = capsys.readouterr().out
    assert "2 inputs: 2 done, 0 skipped, 0 failed" in printed
    assert "no summary: that takes a folder, -o DIR" in printed
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"1.mp4", "1_deid.mp4", "3.mp4", "3_deid.mp4"}
    assert list(tmp_path.glob("drsf-summary*")) == []


def test_a_manifest_gives_each_file_its_options(clips, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"input,output,mask,codec\n{clips}/a/c00.mp4,one.mp4,solid,\n{clips}/a/c02.mp4,deep/two.mkv,,ffv1\n"
    )
    out = tmp_path / "out"
    assert main(["deid", "--manifest", str(tmp_path / "list.csv"), "-o", str(out), *FLAGS]) == 0
    one, two = (json.loads((out / f"{name}.report.json").read_text()) for name in ("one.mp4", "deep/two.mkv"))
    assert (one["settings"]["mask"], one["settings"]["codec"]) == ("solid", "h264")
    assert (two["settings"]["mask"], two["settings"]["codec"]) == ("pixelate_5", "ffv1")


def test_weights_that_are_missing_are_said_once(clips, tmp_path, capsys):
    assert main(["deid", str(clips), "-o", str(tmp_path / "out"), "-z", "eth-xgaze", *FLAGS]) == 5
    assert capsys.readouterr().err.count("error:") == 1


def test_without_ray_it_says_what_to_install(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["deid", str(clips), "-o", str(tmp_path / "out"), "--engine", "ray", *FLAGS]) == 2
    assert "install drsf[ray]" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_progress_is_told_in_whole_and_not_too_often(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr("drsf_cli.progress.time.monotonic", lambda: now[0])
    told = Told(lambda *step: said.append(step), every=0.25)
    told.begin("Reading", 4)
    for _ in range(4):
        now[0] += 0.1
        told.advance()
    told.begin("Writing", None)
    assert said == [("Reading", 0, 4), ("Reading", 3, 4), ("Writing", 0, None)]
