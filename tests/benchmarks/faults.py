"""How many faults test_faults.py and test_file_faults.py inject into the whole pipeline, and how many are not stood.

    python -m tests.benchmarks.faults [--fuzz N] [--signals N]

`--fuzz`: damaged containers (60); `--signals`: moments for each of SIGKILL, SIGINT and SIGTERM (6). A fault is not
stood when a pixel of a head is open, a file is left over or half-written, or the exit code is another than documented.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.conftest import ROOT

FILES = ("tests/drsf_cli/test_faults.py", "tests/drsf_cli/test_file_faults.py")


def main() -> int:
    parser = argparse.ArgumentParser(description="faults tried, faults not stood", allow_abbrev=False)
    parser.add_argument("--fuzz", type=int, default=60)
    parser.add_argument("--signals", type=int, default=6)
    arguments = parser.parse_args()
    environment = {**os.environ, "DRSF_FUZZ": str(arguments.fuzz), "DRSF_SIGNALS": str(arguments.signals)}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *FILES, "-q", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for case in cases:
        name = case.attrib["name"].split("[")[0].removeprefix("test_").replace("_", " ")
        told = {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
        tried[name] += int(told.get("faults", 1))
        failed[name] += case.find("failure") is not None or case.find("error") is not None
    print(f"{'':72}{'tried':>7}{'not stood':>11}")
    for name, count in tried.items():
        print(f"{name:72}{count:7}{failed[name]:11}")
    print(f"{'in all':72}{sum(tried.values()):7}{sum(failed.values()):11}")
    return 1 if sum(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
