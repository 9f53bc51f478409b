"""Weight files inside published packages: pip fetches the package, the files are unpacked, and nothing of it is run.

pip is the client of the package index, so the user's own pip settings (index, proxy, certificates) apply. It fetches
the wheel alone: no dependency, no source archive, and nothing is installed or built. Only the files of the wheel that
the catalogue names are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from weights.catalog import Wheel, WheelMember
from weights.download import FetchError, Progress
from weights.files import fresh_sha256

_PROGRESS = re.compile(r"Progress (\d+) of \d+")  # what `--progress-bar raw` prints
_UNREACHABLE = re.compile(r"Could not fetch URL \S+: (?:connection error|There was a problem confirming[^:]*): (.*)")
_ERROR = re.compile(r"(?:ERROR: |× )(.*)")


def fetch_wheel(wheel: Wheel, scratch: Path, progress: Progress | None) -> Path:
    """Let pip download `wheel` into the folder `scratch`, where it also keeps its log and its temporary files.

    Returns the wheel's path, its sha256 checked. Raises FetchError with the reason in a few words.
    """
    log = scratch / "pip.log"
    # -P: without it, a pip.py in the current folder would be run. No cache: the rest of the wheel is not kept.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "raw"]
    command += ["--log", str(log), "--dest", str(scratch), *_target(wheel), wheel.requirement]
    if progress is not None:
        progress(wheel.file, 0, wheel.size)
    code, complaint = _run(command, scratch, wheel, progress)
    path = scratch / wheel.file
    if code != 0:
        raise FetchError(_reason(complaint, log))
    if not path.is_file():
        raise FetchError("the index has another build of it")
    if fresh_sha256(path) != wheel.sha256:
        raise FetchError("what the index serves has another sha256")
    if progress is not None:
        progress(wheel.file, wheel.size, wheel.size)  # pip reports no progress for a small wheel
    return path


def _target(wheel: Wheel) -> list[str]:
    """The flags that make pip take this build, whatever Python and system it runs on."""
    python, abi, platforms = wheel.tags
    if abi == "none":
        return []
    flags = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    for platform in platforms.split("."):
        flags += ["--platform", platform]
    return flags


def _run(command: list[str], scratch: Path, wheel: Wheel, progress: Progress | None) -> tuple[int, str]:
    """Run pip and pass its progress on. Returns its exit code and standard error."""
    environment = os.environ | {"TMPDIR": str(scratch)}
    with (
        (scratch / "stderr").open("w+", encoding="utf-8", errors="replace") as complaint,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint,
            encoding="utf-8", errors="replace",
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found = _PROGRESS.match(line)
                if found and progress is not None:
                    progress(wheel.file, int(found[1]), wheel.size)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        complaint.seek(0)
        return code, complaint.read()


def _reason(complaint: str, log: Path) -> str:
    """Why pip failed, in a few words. If it could not reach the index, the reason is only in its log."""
    if "No module named pip" in complaint:
        return "pip is not installed in drsf's environment"
    told = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    unreachable = _UNREACHABLE.search(told)
    if unreachable:
        return f"the package index cannot be reached ({unreachable[1].removesuffix(' - skipping')})"
    if "DO NOT MATCH THE HASHES" in told:
        return "what the index serves has another sha256"
    errors = _ERROR.findall(complaint) or complaint.splitlines() or ["it gives no reason"]
    return str(errors[-1])


def read_members(path: Path, wanted: Iterable[tuple[WheelMember, str]]) -> list[bytes]:
    """The content of members of the wheel at `path`, each given with its sha256, in the same order.

    Raises FetchError where one is missing or has another sha256, or the archive cannot be read.
    """
    contents = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member, sha256 in wanted:
                content = archive.read(member.path)
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise FetchError(f"{member.path} in it has another sha256")
                contents.append(content)
    except KeyError as error:
        raise FetchError(f"{error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # encrypted, unknown compression
        raise FetchError(f"it cannot be unpacked ({error})") from error
    return contents


def installed_path(member: WheelMember) -> Path | None:
    """Where this file is in the Python environment, if a package that contains it is installed.

    The package is not imported, and the file's hash is not checked.
    """
    package, *rest = PurePosixPath(member.path).parts
    spec = importlib.util.find_spec(package)  # of a top-level name: finds without importing
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder, *rest)
        if path.is_file():
            return path
    return None
