"""What every test of the commands starts from."""

from __future__ import annotations

import pytest

from drsf_cli.commands import output


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables fold nothing, however long the paths are. Not by COLUMNS: a console keeps what that said at its making."""
    for console in (output.out, output.err):
        monkeypatch.setattr(console, "width", 400)
