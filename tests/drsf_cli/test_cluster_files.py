"""The scripts and recipes of docs/how-to/many-videos.md: run with stand-ins for what is not here, or read."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from drsf_cli.app import main
from tests.drsf_cli.many import contents, make_clips

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "cluster"
PACKAGES = {"attacks", "drsf_cli", "export", "victims", "weights"}

# what SLURM's and Ray's commands, and drsf, are told, a line each
STAND_INS = {
    "drsf": 'echo "drsf $*" >> "$LOG"',
    "ray": 'echo "ray $*" >> "$LOG"',
    "sleep": "",
    "scontrol": 'printf "n1\\nn2\\nn3\\n"',
    "hostname": 'echo "192.0.2.7 198.51.100.7"',
    "srun": 'while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done; exec "$@"',
}


def run(script, tmp_path, *arguments, **variables):
    """What was called by `script`, each call as a list of words."""
    places = tmp_path / "bin"
    places.mkdir()
    for name, body in STAND_INS.items():
        (places / name).write_text(f"#!/bin/bash\n{body}\n")
        (places / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {**os.environ, **variables, "LOG": str(log), "PATH": f"{places}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(FOLDER / script), *arguments], check=True, env=environment, timeout=60)
    return [line.split() for line in log.read_text().splitlines()]


def test_the_job_array(tmp_path, monkeypatch):
    """Its three tasks call drsf so that together they do every input once."""
    clips = make_clips(tmp_path / "in", 4)
    for task in (1, 2, 3):
        variables = {"ID": str(task), "MIN": "1", "COUNT": "3"}
        variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in variables.items()}
        place = tmp_path / str(task)
        place.mkdir()
        more = ["--attack", "none", "--quiet"]
        (call,) = run("array.sbatch", place, str(clips), str(tmp_path / "out"), *more, **variables)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert call[0] == "drsf"
        assert main(call[1:]) == 0
    names = [name for name in contents(tmp_path / "out") if name.endswith("_deid.mp4")]
    assert names == [f"{folder}/c{number:02}_deid.mp4" for folder, number in (("a", 0), ("a", 2), ("b", 1), ("b", 3))]


def test_ray_over_the_nodes_of_a_job(tmp_path):
    calls = run(
        "ray.sbatch", tmp_path, "in", "out", "--mask", "solid", SLURM_JOB_NODELIST="n[1-3]", SLURM_CPUS_PER_TASK="8"
    )
    head, others, drsf = sorted(calls, key=lambda call: (call[0] == "drsf", "--head" not in call))
    assert head[:3] == ["ray", "start", "--head"]
    assert others[:3] == ["ray", "start", "--address=192.0.2.7:6379"]
    assert "--num-cpus=8" in head
    assert "--num-cpus=8" in others
    assert drsf[:5] == ["drsf", "deid", "in", "-o", "out"]
    assert drsf[-2:] == ["--mask", "solid"]
    assert drsf[drsf.index("--engine") + 1] == "ray@192.0.2.7:6379"


@pytest.mark.parametrize(
    ("name", "pattern"), [("Dockerfile", r"^COPY (.+) \S+$"), ("drsf.def", r"^    (.+) /opt/drsf/$")]
)
def test_containers_copy_what_is_there_and_all_packages(name, pattern):
    text = (FOLDER / name).read_text()
    sources = [source for line in re.findall(pattern, text, re.MULTILINE) for source in line.split()]
    assert PACKAGES | {"pyproject.toml", "requirements.txt", "README.md", "LICENSE"} == set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert "--constraint" in text
    assert "[ray]" in text


def test_the_page_names_only_what_is_there(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    page = (ROOT / "docs" / "how-to" / "many-videos.md").read_text()
    links = re.findall(r"\]\(\.\./(cluster/[^)]+)\)", page)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link
    assert main(["deid", "--help-all"]) == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    commands = re.findall(r"^drsf deid .*$", page, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        flags = set(re.findall(r"(--[a-z-]+)", command.split("#")[0]))
        assert flags <= known, command
