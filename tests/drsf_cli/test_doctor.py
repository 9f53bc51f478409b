"""`drsf doctor` tells what works from what does not, by trying it."""

from __future__ import annotations

import pytest

from attacks.codec import CODECS
from drsf_cli.app import main
from drsf_cli.readers import checkup as doctor
from victims import registry
from weights import store


@pytest.fixture(autouse=True)
def _cpu_alone(monkeypatch):
    monkeypatch.setattr(doctor, "cuda_problem", lambda: "libcuda.so.1 is missing")


def by_name(checks):
    return {(check.kind, check.name): check for check in checks}


def test_everything_has_a_verdict_and_the_defaults_work(capsys):
    checks = by_name(doctor.examine())
    assert {name for kind, name in checks if kind == "victim"} == set(registry.VICTIMS)
    assert {name for kind, name in checks if kind == "codec"} == set(CODECS)
    usable = {name for (kind, name), check in checks.items() if kind == "victim" and check.usable}
    assert usable == {"mtcnn", "fan-compact", "gaze-compact"}, "those whose weights need no download"
    assert "drsf weights pull retinaface" in checks["victim", "retinaface"].detail
    assert not checks["provider", "CUDA"].usable
    assert "libcuda.so.1 is missing" in checks["provider", "CUDA"].detail
    assert main(["doctor"]) == 0, "what is missing is not what the defaults need"
    printed = " ".join(capsys.readouterr().out.split())
    assert "The defaults work here." in printed


def test_a_broken_default_is_exit_1(tmp_path, monkeypatch, capsys):
    """The bundled aligner is damaged on the disk."""
    damaged = tmp_path / "bundled"
    damaged.mkdir()
    (damaged / "fan_compact.safetensors").write_bytes(b"no weights")
    monkeypatch.setattr(store, "_BUNDLED", damaged)
    assert main(["doctor"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "The defaults need these, which are not usable" in printed
    assert "fan-compact" in printed


def test_a_codec_that_cannot_be_written_is_told(monkeypatch):
    from weights.errors import OutputError

    whole = doctor.make_demo_clip

    def without_ffv1(path, **given):
        if given["codec"] == "ffv1":
            raise OutputError("ffv1: this FFmpeg has no such encoder.")
        return whole(path, **given)

    monkeypatch.setattr(doctor, "make_demo_clip", without_ffv1)
    checks = by_name(doctor._codecs())
    assert not checks["codec", "ffv1"].usable
    assert "no such encoder" in checks["codec", "ffv1"].detail
    assert checks["codec", "h264"].usable
    assert doctor.healthy(list(checks.values())), "the default codec is there"
