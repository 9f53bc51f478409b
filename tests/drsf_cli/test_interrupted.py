"""A run with an attack that is stopped in the middle: what it leaves, on disk and in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drsf_cli.media.demo_clip import make_demo_clip
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SECONDS, FRAMES = 0.96, 24
LITTLE = 1000
"""Bytes: what libraries leave, such as a mark that a session was."""

_CHILD = """
import sys
from drsf_cli.app import main
from tests.drsf_cli.child import prepare
prepare()
flags = "--effort fast --min-face 0.3 --threads 2 --repel none --quiet"
sys.exit(main(["deid", *sys.argv[1:], *flags.split()]))
"""


def lasts(group: int, seconds: float = 15.0) -> bool:
    """Whether a process of the group is still there after some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_stopped_while_embedding(number: signal.Signals, tmp_path: Path) -> None:
    """The codec in the loop is a process of its own, which is not to outlive the run; nor is what is kept in files for
    a second writing. What a kill leaves has a hidden name."""
    source = make_demo_clip(tmp_path / "in.mp4", seconds=SECONDS, size=(320, 240))
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", _CHILD, str(source), "-o", str(tmp_path / "out.mp4")]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(FRAMES + 3):  # after the survey; the third frame is being embedded, or the second
            assert process.stdout.readline(), process.communicate()[1]
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    assert not lasts(process.pid)
    left = sorted(path.name for path in tmp_path.iterdir() if path.name not in ("in.mp4", "temporary"))
    assert all(name.startswith(".") for name in left)
    if number != signal.SIGKILL:
        assert left == []
    kept = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < LITTLE  # not a picture's, nor a perturbation's
