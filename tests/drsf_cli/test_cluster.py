"""The Ray engine on a cluster of two nodes on this machine, each with one core and so with one worker."""

from __future__ import annotations

import json
import os
import signal
from fractions import Fraction

import numpy as np
import pytest

from drsf_cli.app import main
from drsf_cli.batch import ray_engine
from drsf_cli.batch.ray_engine import RayEngine
from drsf_cli.batch.ray_tasks import LongJob, Task
from drsf_cli.batch.run import Local, run_batch
from drsf_cli.commands.deid import _engine
from drsf_cli.deid.segments import Part
from drsf_cli.media.demo_clip import make_demo_clip
from tests.clips import make_clip
from tests.drsf_cli.many import contents, job_of, make_clips
from weights.errors import UsageError

pytest.importorskip("ray", reason="Ray is not installed (extra drsf[ray])")
pytestmark = pytest.mark.timeout(900)  # each worker that starts imports torch, on a busy machine for half a minute


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # 15 by default: beside other tests they would hardly start
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
    for attempt in range(3):  # Ray gives a node 30 s to start, which is short on a busy machine
        cluster = Cluster()
        try:
            cluster.add_node(**small, include_dashboard=False)
            cluster.add_node(**small)
            cluster.wait_for_nodes()
            break
        except Exception:  # what Ray raises for a node that did not start; the third time it fails the tests
            cluster.shutdown()
            if attempt == 2:
                raise
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips of five frames."""
    return make_clips(tmp_path_factory.mktemp("clips") / "in", 4, seconds=0.2)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """14 frames in three segments of 1 s, large enough for a signal to arrive before a part is done."""
    return make_demo_clip(tmp_path_factory.mktemp("long") / "long.mp4", seconds=2.8, fps=5, size=(480, 360))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The driver tells what the workers do soon enough for them to be killed while they do it."""
    monkeypatch.setattr(ray_engine, "POLL_S", 0.02)


class Watching:
    """Keeps what it is told, and kills the workers of some inputs; with `at` only at steps with that in their title."""

    def __init__(self, deaths=(), at=""):
        self.steps, self.results, self.deaths, self.at = [], [], dict(deaths), at

    def step(self, worker, name, title, done, total):
        self.steps.append((worker, name, title, done, total))
        if self.deaths.get(name) and self.at in title and worker not in self.killed:
            self.deaths[name] -= 1
            self.killed.add(worker)
            os.kill(int(worker.rpartition("/")[2]), signal.SIGKILL)

    def result(self, result):
        self.results.append(result)

    @property
    def killed(self):
        return self.__dict__.setdefault("_killed", set())


ATTACK = {"threads": 1}


@pytest.mark.slow
def test_the_same_result_as_one_process(cluster, clips, tmp_path):
    """With an attack: outputs byte for byte, and every error in the reports. Both nodes take part."""
    flags = ["--threads", "1", "--quiet"]
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert main(["deid", str(clips), "-o", str(alone), *flags]) == 0
    assert main(["deid", str(clips), "-o", str(spread), *flags, "--engine", f"ray@{cluster}"]) == 0
    expected = contents(alone)
    assert contents(spread) == expected
    reports = [one for name, one in expected.items() if name.endswith(".report.json")]
    assert len(reports) == 4
    assert all(report["cost"]["victim_passes_per_frame"] > 0 for report in reports)
    rows = json.loads((spread / "drsf-summary.json").read_text())["files"]
    nodes = {row["worker"].rpartition("/")[0] for row in rows}
    assert len(nodes) == 2
    assert {row["attempts"] for row in rows} == {1}


@pytest.mark.slow
def test_a_lost_worker(cluster, clips, tmp_path):
    """One job's worker is killed once: it is done by another. One job's is killed twice: it is given up. No other job
    is touched, nothing is left of either death, and progress comes from the workers."""
    sources = sorted(clips.rglob("*.mp4"))
    jobs = [job_of(source, tmp_path / source.name, **ATTACK) for source in sources]
    alone = [job_of(source, tmp_path / "alone" / source.name, **ATTACK) for source in sources]
    run_batch(alone, Local(), Watching())
    once, twice, *_ = [source.name for source in sources]
    watch = Watching({once: 1, twice: 2})
    results = run_batch(jobs, RayEngine(cluster), watch, summary=tmp_path / "summary.json")
    found = {result.job.source.name: result for result in results}
    assert (found[once].state, found[once].attempts) == ("done", 2)
    assert (found[twice].state, found[twice].attempts) == ("failed", 2)
    assert "lost 2 times" in found[twice].error
    assert results[-1] is found[twice]
    assert [found[source.name].state for source in sources[2:]] == ["done", "done"]
    for job, other in zip(jobs, alone, strict=True):
        if job.source.name != twice:
            assert job.output.read_bytes() == other.output.read_bytes()
    assert not (tmp_path / twice).exists()
    assert {path.name for path in tmp_path.glob(".*")} == set()
    assert len(watch.killed) == 3
    told = {name: {title for _, other, title, *_ in watch.steps if other == name} for name in found}
    assert all(told.values())
    assert any(done for *_, done, _ in watch.steps)
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == 1


@pytest.fixture(scope="module")
def long_alone(long_clip, tmp_path_factory):
    """What one process makes of the long clip."""
    folder = tmp_path_factory.mktemp("alone")
    run_batch([job_of(long_clip, folder / "out.mp4", **ATTACK, segment=1.0)], Local(), Watching())
    return folder


@pytest.mark.slow
def test_a_long_file_in_segments_with_a_worker_lost(cluster, long_clip, long_alone, tmp_path):
    """Both workers take part; one is killed at the second segment, which another does again. The output and every error
    are those of one process."""
    watch = Watching({"long.mp4": 1}, at="part 2 of 3")
    job = job_of(long_clip, tmp_path / "out.mp4", **ATTACK, segment=1.0)
    (result,) = run_batch([job], RayEngine(cluster), watch)
    assert (result.state, result.attempts, len(watch.killed)) == ("done", 2, 1)
    assert contents(tmp_path) == contents(long_alone)
    titles = {title for _, _, title, *_ in watch.steps}
    assert {f"Obscuring and embedding, part {number} of 3" for number in (1, 2, 3)} <= titles
    working = {worker for worker, _, title, *_ in watch.steps if title.endswith("of 3")}
    assert len({worker.rpartition("/")[0] for worker in working}) == 2


@pytest.mark.slow
def test_a_segment_that_is_lost_twice(cluster, long_clip, tmp_path):
    watch = Watching({"long.mp4": 2}, at="part 3 of 3")
    job = job_of(long_clip, tmp_path / "out.mp4", **ATTACK, segment=1.0)
    (result,) = run_batch([job], RayEngine(cluster), watch)
    assert (result.state, result.attempts) == ("failed", 2)
    assert "lost 2 times" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_cannot_be_done_in_parts_is_done_as_a_whole(cluster, long_clip, tmp_path):
    """Nobody is seen: one sentence, as from one process. An output that is there is not touched."""
    grey = make_clip(tmp_path / "grey.mp4", [np.full((120, 160, 3), 90, np.uint8)] * 15, rate=Fraction(5))
    there = tmp_path / "there.mp4"
    there.write_bytes(b"precious")
    jobs = [job_of(grey, tmp_path / "out.mp4", threads=1, segment=1.0)]
    jobs.append(job_of(long_clip, there, threads=1, segment=1.0))
    found = {result.job.source.name: result for result in run_batch(jobs, RayEngine(cluster), Watching())}
    assert [(result.state, result.attempts) for result in found.values()] == [("failed", 1)] * 2
    assert found["grey.mp4"].exit_code == 6
    assert found["long.mp4"].exit_code == 4
    assert {path.name for path in tmp_path.iterdir()} == {"grey.mp4", "there.mp4"}
    assert there.read_bytes() == b"precious"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"), [({"workers": 3}, "have no room"), ({"workers": 0}, "1 or more")], ids=["room", "none"]
)
def test_what_cannot_be_had(given, words, cluster, clips, tmp_path):
    jobs = [job_of(clips / "a" / "c00.mp4", tmp_path / "out.mp4", threads=1)]
    with pytest.raises(UsageError, match=words):
        run_batch(jobs, RayEngine(cluster, **given), Watching())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_job_that_asks_for_more_threads_than_a_node_has(cluster, clips, tmp_path):
    jobs = [job_of(clips / "a" / "c00.mp4", tmp_path / "out.mp4", threads=2)]
    with pytest.raises(UsageError, match="no node of the Ray cluster has 2 cores"):
        run_batch(jobs, RayEngine(cluster), Watching())


def test_the_engines_flags(clips, tmp_path, capsys):
    arguments = ["deid", str(clips), "-o", str(tmp_path / "out"), "--attack", "none"]
    for wrong in ("dask", "Ray", "ray:", "ray:x", "ray:-1", "ray@", "local:2", ""):
        assert main([*arguments, "--engine", wrong]) == 2
        assert "it takes local or ray, ray:WORKERS, ray@HOST:PORT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("ray", (None, None)),
        ("ray:4", (None, 4)),
        ("ray@auto", ("auto", None)),
        ("ray:2@10.0.0.7:6379", ("10.0.0.7:6379", 2)),
    ],
)
def test_what_an_engine_says(text, given, monkeypatch):
    made = []
    monkeypatch.setattr("drsf_cli.batch.ray_engine.RayEngine", lambda *arguments: made.append(arguments))
    _engine(text)
    assert made == [given]


def test_a_cluster_that_does_not_start_is_one_sentence(clips, tmp_path, capsys, monkeypatch):
    """Ray raises a bare Exception of several lines then."""
    import ray

    def slow(*arguments, **given):
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr(ray, "init", slow)
    out = tmp_path / "out"
    assert main(["deid", str(clips), "-o", str(out), "--attack", "none", "--engine", "ray", "--quiet"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "no Ray cluster can be used here (The current node timed out during startup); see" in message
    assert message.count("error:") == 1


def test_when_what_workers_held_is_lost_the_file_begins_again_as_a_whole(tmp_path):
    """A node is gone with what its workers had found: no retry of the step can help. Nothing begins before the other
    step that is under way has ended, and files in between are removed."""
    job = job_of(tmp_path / "in.mp4", tmp_path / "out.mp4")
    (tmp_path / "between").write_bytes(b"packed")
    long = LongJob(job, [Part(None, Fraction(1)), Part(Fraction(1), None)], 0.0, paths=[tmp_path / "between"])
    one, other = (Task(job, 1, "embed", long, number) for number in range(2))
    long.running = 2
    assert one.lost(Exception("gone"), data_lost=True) == []
    assert (tmp_path / "between").exists()
    (again,) = other.ended(1.0)
    assert (again.step, again.attempt, again.may_split, again.long) == ("whole", 2, False, None)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_lost_costs_its_step_only(tmp_path):
    job = job_of(tmp_path / "in.mp4", tmp_path / "out.mp4")
    long = LongJob(job, [Part(None, Fraction(1)), Part(Fraction(1), None)], 0.0)
    task = Task(job, 1, "embed", long, 1)
    long.running = 2
    (again,) = task.lost(Exception("killed"), data_lost=False)
    assert (again.step, again.part, again.attempt, again.long) == ("embed", 1, 2, long)
    long.running = 2
    assert again.lost(Exception("killed"), data_lost=False) == []
    result = Task(job, 1, "embed", long, 0).ended(1.0)
    assert (result.state, result.attempts, result.exit_code) == ("failed", 2, 1)
