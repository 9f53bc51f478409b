"""The documentation builds as a site, with every link and every name in it right."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("mkdocs.commands.build", reason="mkdocs is not installed (extra drsf[dev])")
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    page = (tmp_path / "python-api" / "index.html").read_text()
    assert 'id="drsf_cli.deid.pipeline.deidentify"' in page
    assert "Raises" in page or "raises" in page
