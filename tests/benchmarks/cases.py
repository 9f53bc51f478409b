"""What `drsf deid` makes of the shared files of the kinds that people report, in this checkout or in another.

    python -m tests.benchmarks.cases [--checkout FOLDER]

One line a case: its row in issue 22, what is asked, and what came. `--checkout` runs the commands of an earlier commit,
so that what these files showed then can be told from what they show now. Exits with 1 where a case is not as asked.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from drsf_cli.media.reader import VideoReader
from tests.benchmarks.main_job import ROOT, SHARED
from tests.drsf_cli.test_sound import blocks_of, heard
from victims.mtcnn import load_mtcnn

RUN = "from drsf_cli.app import main; raise SystemExit(main())"
UNFLUSHED = f"""
import os
from pathlib import Path
real = os.fsync
def fsync(descriptor):
    if Path(f"/proc/self/fd/{{descriptor}}").is_dir():
        raise OSError({errno.EINVAL}, "not here")
    real(descriptor)
os.fsync = fsync
"""
FLAGS = ("--attack", "none", "--quiet")
CASES = SHARED / "cases"


LOOP = """
import json, os, sys
from drsf_cli.app import main
told = os.dup(1)
text = os.open(".text", os.O_RDWR | os.O_CREAT | os.O_APPEND)
os.dup2(text, 1), os.dup2(text, 2)
for line in sys.stdin:
    folder, words = json.loads(line)
    os.ftruncate(text, 0)
    os.chdir(folder)
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    sys.stdout.flush(), sys.stderr.flush()
    os.lseek(text, 0, 0)
    os.write(told, (json.dumps([code, os.read(text, 100_000).decode(errors="replace")]) + "\\n").encode())
"""
"""Commands, one after the other in one process: starting takes most of their time."""


class Commands:
    """`drsf deid` of one checkout, in a folder of its own."""

    def __init__(self, checkout: Path, folder: Path, loop: subprocess.Popen[str]) -> None:
        self.checkout, self.folder, self.loop = checkout, folder, loop
        settings = (checkout / "drsf_cli" / "settings.py").read_text()
        self.audio = ("--keep-audio",) if "keep_audio" in settings else ("--audio", "copy")

    def started(self, *words: object, before: str = "") -> subprocess.Popen[str]:
        """In a process of its own."""
        return child(self.checkout, self.folder, before + RUN, "deid", *map(str, words))

    def apart(self, *words: object, before: str = "", seconds: float = 900) -> tuple[int, str]:
        """Exit code, or -1 where it takes longer than `seconds`, and what is printed; in a process of its own."""
        process = self.started(*words, before=before)
        try:
            text, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return -1, "hangs"
        return process.returncode, text

    def run(self, *words: object) -> tuple[int, str]:
        """Exit code, and what is printed."""
        assert self.loop.stdin is not None
        assert self.loop.stdout is not None
        self.loop.stdin.write(json.dumps([str(self.folder), ["deid", *map(str, words)]]) + "\n")
        self.loop.stdin.flush()
        code, text = json.loads(self.loop.stdout.readline())
        return code, text

    def deid(self, name: object, output: str, *more: object) -> tuple[int, str]:
        return self.run(CASES / str(name), "-o", output, *FLAGS, *more)


def child(checkout: Path, folder: Path, script: str, *words: str) -> subprocess.Popen[str]:
    # without the weights that were fetched, so that MTCNN covers alone, as in the issue
    nowhere = str(folder / "no weights")
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200", "DRSF_WEIGHTS": nowhere}
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=folder, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def hidden(commands: Commands, name: str, lying: bool) -> tuple[bool, str]:
    """Of the second head's face in the first frame: the share that the output changes."""
    code, text = commands.deid(name, "out.mkv", "--codec", "ffv1")
    if code:
        return False, text.strip()[:100]
    source, output = CASES / name, commands.folder / "out.mkv"
    before, after = (next(islice(VideoReader(path), 1)).image for path in (source, output))
    size, width = before.shape[:2]
    (own,) = load_mtcnn("mtcnn").detect([np.ascontiguousarray(before[:, :size])])
    x1, y1, x2, y2 = (round(float(value)) for value in own.boxes[0])
    rows, columns = (
        (slice(size - x2, size - x1), slice(size + y1, size + y2))
        if lying
        else (slice(y1, y2), slice(size + x1, width))
    )
    changed = np.abs(before[rows, columns].astype(int) - after[rows, columns]).max(axis=2) > 2
    smooth = cv2.blur(changed.astype(np.float32), (9, 9)) > 0.3
    return bool(smooth.mean() > 0.9), f"{smooth.mean():.0%} of the face is changed"


def times(commands: Commands, name: str, step: float) -> tuple[bool, str]:
    code, text = commands.deid(name, "out.mkv")
    if code:
        return False, text.strip()[:100]
    with av.open(str(commands.folder / "out.mkv")) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    steps = np.diff(shown)
    told = f"{len(shown)} frames from {shown[0]:.3f} s on, {steps.min():.4f} to {steps.max():.4f} s apart"
    return shown[0] == 0.0 and bool(np.allclose(steps, step, atol=2e-3)), told


def region(commands: Commands) -> tuple[bool, str]:
    """A region in the second recording's time must change its frames."""
    words = ("--region", "0,270,50,320@0.7-1.1", "--codec", "ffv1", "--mask", "solid")
    code, text = commands.deid("joined.ts", "out.mkv", *words)
    if code:
        return False, text.strip()[:100]
    pairs = zip(VideoReader(CASES / "joined.ts"), VideoReader(commands.folder / "out.mkv"), strict=True)
    count = sum(np.ptp(after.image[270:, :50].reshape(-1, 3), axis=0).max() < 8 for _, after in pairs)
    return bool(9 <= count <= 11), f"covers {count} frames of 10"


def sound(commands: Commands) -> tuple[bool, str]:
    code, text = commands.deid("trimmed.mp4", "out.mp4", *commands.audio)
    if code:
        return False, text.strip()[:100]
    count = blocks_of(heard(commands.folder / "out.mp4", ignore_editlist="1"), 1500)
    return count <= 2, f"{count} blocks of what was cut off can be brought back"


def works(*words: object) -> Callable[[Commands], tuple[bool, str]]:
    def case(commands: Commands) -> tuple[bool, str]:
        code, text = commands.deid(*words)  # type: ignore[arg-type]
        return code == 0, f"exit code {code}" + (f": {' '.join(text.split())[:90]}" if code else "")

    return case


def says(name: str, word: str) -> Callable[[Commands], tuple[bool, str]]:
    """With sound in an .mkv: works, or says `word`."""

    def case(commands: Commands) -> tuple[bool, str]:
        code, text = commands.deid(name, "out.mkv", *commands.audio)
        return code == 0 or word in text, f"exit code {code}: {' '.join(text.split())[:90]}"

    return case


def unflushed(commands: Commands) -> tuple[bool, str]:
    code, text = commands.apart(CASES / "short.mp4", "-o", "out.mp4", *FLAGS, before=UNFLUSHED)
    left = sorted(path.name for path in commands.folder.iterdir())
    return code == 0, f"exit code {code}, {len(left)} files: {' '.join(text.split())[:60]}"


def odd_name(commands: Commands) -> tuple[bool, str]:
    source = commands.folder / os.fsdecode(b"\xe9t\xe9.mp4")
    shutil.copy(CASES / "short.mp4", source)
    code, text = commands.run(source, "-o", "out.mp4", *FLAGS, "--html")
    return code == 0, f"exit code {code}: {' '.join(text.split())[-60:]}"


def hung_up(commands: Commands) -> tuple[bool, str]:
    heeded = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup has it ignored
    process = commands.started(SHARED / "data" / "talking_720p.mp4", "-o", "out.mp4", *FLAGS, before=heeded)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(commands.folder.glob(".*part*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    process.communicate()
    left = [path for path in commands.folder.iterdir() if "part" in path.name]
    return not left, f"exit code {process.returncode}, {len(left)} parts are left"


def server(commands: Commands) -> tuple[bool, str]:
    for name in ("a.mp4", "@eaDir/a.mp4", "#recycle/b.mp4"):
        (commands.folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CASES / "short.mp4", commands.folder / "in" / name)
    (commands.folder / "in" / "@eaDir" / "t.jpg").write_bytes(b"no picture")
    code, _ = commands.run("in", "-o", "many", *FLAGS)
    made = [path.name for path in (commands.folder / "many").rglob("*.mp4")]
    return code == 0 and len(made) == 1, f"exit code {code}, {len(made)} videos"


def pipe(commands: Commands) -> tuple[bool, str]:
    code, text = commands.apart("-", "-o", "out.mp4", *FLAGS, seconds=120)
    return code > 0 and ("standard input" in text or "pipe" in text), f"exit code {code}: {' '.join(text.split())[:90]}"


def new_folder(commands: Commands) -> tuple[bool, str]:
    code, _ = commands.deid("short.mp4", "new/")
    made = [path.name for path in commands.folder.glob("new/*.mp4")]
    return code == 0 and len(made) == 1, f"exit code {code}, videos in the folder: {len(made)}"


def infrared(commands: Commands) -> tuple[bool, str]:
    code, text = commands.deid("infrared_10bit.png", "out.png", "--on-no-face", "copy")
    if code:
        return False, text.strip()[:100]
    image = cv2.imread(str(commands.folder / "out.png"))
    return bool(image.max() > 200), f"the brightest of 255 is {image.max()}"


ROWS: dict[str, Callable[[Commands], tuple[bool, str]]] = {
    "1 a head on its side is hidden": lambda c: hidden(c, "side.mp4", lying=True),
    "2 half a face at the border is hidden": lambda c: hidden(c, "border.mp4", lying=False),
    "3 frames after a clock that starts anew": lambda c: times(c, "joined.ts", 0.04),
    "3 a region after a clock that starts anew": region,
    "4 sound that was cut off": sound,
    "6 a bare stream of 20 a second": lambda c: times(c, "raw_20.hevc", 0.05),
    "6 B frames in AVI": lambda c: times(c, "bframes.avi", 0.04),
    "7 a folder without fsync": unflushed,
    "8 a name that is not UTF-8": odd_name,
    "9 an open GOP that was cut": works("open_gop.mkv", "out.mkv"),
    "9 two pictures in one JPEG": works("two_pictures.jpg", "out.png", "--on-no-face", "copy"),
    "10 SIGHUP": hung_up,
    "11 a file server's folders": server,
    "12 a pipe": pipe,
    "13 mu-law": says("mulaw.avi", "--audio aac"),
    "13 ADPCM": says("adpcm.avi", "--audio aac"),
    "14 a plain camera file": works("up.mp4", "out.mp4", "--camera", CASES / "camera_plain.yaml"),
    "16 -o new/": new_folder,
    "17 infrared of 10 bits": infrared,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="of another commit")
    checkout = parser.parse_args().checkout.resolve()
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        loop = child(checkout, Path(home), LOOP)
        for title, case in ROWS.items():
            folder = Path(tempfile.mkdtemp(dir=home))
            good, told = case(Commands(checkout, folder, loop))
            failed += not good
            print(f"{'as asked' if good else 'NOT SO':9} {title:44} {told}", flush=True)
        loop.communicate()
    print(f"{len(ROWS) - failed} of {len(ROWS)} as asked")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
