"""No settings object exists with a value that is not allowed, whoever makes it."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
import typer.main

from attacks.obscure import Pixelate, Region, obscure
from drsf_cli.app import app
from drsf_cli.batch.jobs import Job
from drsf_cli.batch.run import plan_batch
from drsf_cli.commands.output import ErrorStyle
from drsf_cli.deid.survey import Survey, plan_cover
from drsf_cli.limits import flags
from drsf_cli.settings import DeidSettings, VictimNames, settings_from_dict, settings_to_dict
from weights.errors import UsageError

NAN, INF = math.nan, math.inf
SWITCH = ("true or false", ["", "true", 1, 0, None, NAN])
SECONDS = "a finite number of seconds"

WRONG: dict[str, tuple[str, list[Any]]] = {
    "victims": ("VictimNames", [None, "mtcnn", ("mtcnn", None, None), {"detector": "mtcnn"}]),
    "attack": ("it takes", ["", "magic", "None:", "none:lr=1", "sgd:", "sgd:rate=1", "sgd:lr=nan", 3, b"sgd"]),
    "mask": ("pixelate_N", ["", "pixelate", "pixelate_0", "pixelate_65", "blur_0", "none", None, 5, NAN, ("solid",)]),
    "eps": ("16/255", ["", "0", "-1/255", "2", "nan", "inf", "1/0", "1e400", "1e999999999", None, 0.05, NAN]),
    "effort": ("fast, normal or best", ["", "Fast", "slow", None, 1, NAN]),
    "drawer": ("a path", ["drawer.safetensors", 3, NAN, True]),
    "segment": (SECONDS, [0, -1.0, NAN, INF, None, "60", True]),
    "batch_size": ("a whole number from 1 on", [0, -3, 2.0, True, "4", NAN, INF]),
    "codec": ("h264, h264-rgb or ffv1", ["", "H264", "h265", "h264 ", None, 264, NAN]),
    "crf": ("a whole number from 0 to 51", [-1, 52, 23.0, True, None, "23", NAN, INF]),
    "head_qp": ("a whole number from -20 to 0", [-21, 1, -4.0, None, "-4", NAN, INF]),
    "audio": ("drop, copy or aac", ["", "Copy", "mp3", None, True, NAN]),
    "start": (SECONDS, [-0.5, NAN, INF, "0", True]),
    "end": (SECONDS, [0, -1, NAN, INF, "9", True]),
    "fps": ("a finite number", [0, -1, NAN, INF, "25", True]),
    "camera": ("a path", ["camera.yml", 3, NAN, True]),
    "device": ("auto, cpu or cuda", ["", "CPU", "cuda:0", None, 0, NAN]),
    "threads": ("a whole number from 1 on", [0, -1, 2.0, True, "2", NAN, INF]),
    "allow_unknown_weights": SWITCH,
    "max_gap": (SECONDS, [-0.1, NAN, INF, None, "1", True]),
    "on_no_face": ("refuse, solid or copy", ["Refuse", "COPY", " solid", "", "hide", None, False, 1, NAN]),
    "min_face": ("a finite number", [0, -0.1, NAN, INF, "20", True]),
    "rotate": ("0, 90, 180, 270 or auto", ["", "45", "AUTO", 90, None, NAN]),
    "regions": ("x1", [("0,0,0,9",), ("a",), ("",), (3,), (NAN,), ["0,0,9,9"], "0,0,9,9", None, NAN]),
    "cover_detectors": ("detector", [("yolo",), ("fan",), ("",), (None,), ["mtcnn"], "mtcnn", None, NAN]),
    "embed": ("largest, all or a point", ["", "biggest", "1", "1,2,3", "nan,2", "1,inf", None, (1, 2), NAN]),
    "targets": ("a path", ["reading.json", 3, NAN, True]),
    "shape": ("own or average", ["", "Own", "mean", None, 1, NAN]),
    "keep_failed": SWITCH,
    "max_error": ("a finite number above 0", [0, -1, NAN, INF, "3", True]),
    "overwrite": SWITCH,
    "html": SWITCH,
    "repel": ("all or none", [("",), (None,), ["all"], "all", None, NAN]),
    "audit": ("file or full", ["", "Full", "none", None, True, NAN]),
}
"""Field -> what its error says is allowed, and values that it refuses."""

CASES = [(name, allowed, value) for name, (allowed, values) in WRONG.items() for value in values]


def refused(name: str, allowed: str, message: str) -> None:
    """The message begins with the field and its flag, and says what is allowed."""
    flag = flags(DeidSettings)[name]
    start = f"{name} ({flag}): " if flag else f"{name}: "
    assert message.startswith(start), message
    assert allowed in message, message
    assert "\n" not in message


def test_every_field_is_here():
    assert list(WRONG) == [one.name for one in dataclasses.fields(DeidSettings)]
    assert len(CASES) > 190


@pytest.mark.parametrize(("name", "allowed", "value"), CASES, ids=lambda value: repr(value)[:30])
def test_python_and_a_worker_refuse_every_wrong_value(name, allowed, value):
    with pytest.raises(UsageError) as made:
        DeidSettings(**{name: value})
    refused(name, allowed, str(made.value))
    with pytest.raises(UsageError) as replaced:
        dataclasses.replace(DeidSettings(), **{name: value})
    assert str(replaced.value) == str(made.value)
    forged = DeidSettings()
    object.__setattr__(forged, name, value)  # as a worker might be sent one by another version
    with pytest.raises(UsageError) as unpickled:
        pickle.loads(pickle.dumps(Job(Path("in.mp4"), Path("out.mp4"), forged)))
    refused(name, allowed, str(unpickled.value))


def test_times_that_do_not_follow_one_another_are_refused():
    with pytest.raises(UsageError, match=r"^end \(--end\): 2 is not after start, 2"):
        DeidSettings(start=2, end=2)


@pytest.mark.parametrize(
    ("role", "name", "words"),
    [
        ("detector", "yolo", r"^detector \(-d\): 'yolo' .* mtcnn, retinaface"),
        ("detector", None, r"^detector \(-d\): None .* NAME or NAME@FILE"),
        ("detector", "fan", r"^detector \(-d\): 'fan' is an aligner model, not detector"),
        ("aligner", "", r"^aligner \(-a\): '' "),
        ("aligner", 68, r"^aligner \(-a\): 68 "),
        ("gaze", NAN, r"^gaze \(-z\): nan "),
        ("gaze", "none", r"^gaze \(-z\): 'none' .* gaze-compact"),
    ],
)
def test_victims_have_names_of_their_role(role, name, words):
    with pytest.raises(UsageError, match=words):
        VictimNames(**{role: name})
    forged = VictimNames()
    object.__setattr__(forged, role, name)
    with pytest.raises(UsageError, match=words):
        pickle.loads(pickle.dumps(forged))


TYPED = {
    "attack": ["magic", "none:lr=1", "sgd:", "sgd:rate=1", "sgd:lr=nan"],
    "mask": ["Pixelate", "pixelate_0", "blur_101", "none", "5", "nan"],
    "eps": ["0", "-1/255", "2", "nan", "inf", "1/0", "1e400"],
    "effort": ["Fast", "slow", "none"],
    "audio": ["Copy", "mp3"],
    "fps": ["0", "-1", "nan"],
    "min_face": ["0", "-1", "nan"],
    "rotate": ["45", "AUTO"],
    "shape": ["Own", "mean"],
    "batch_size": ["0", "2.5", "nan"],
    "codec": ["H264", "h265"],
    "crf": ["-1", "52", "23.5", "nan", "good"],
    "start": ["-0.5", "nan", "inf", "now"],
    "end": ["0", "-1", "nan", "inf"],
    "device": ["CPU", "cuda:0"],
    "threads": ["0", "1.5", "nan"],
    "on_no_face": ["Refuse", "COPY", "hide", "None", "nan"],
    "regions": ["0,0,0,9", "a", "0,0,9,nan"],
    "embed": ["biggest", "1", "1,2,3", "nan,2", "1,inf"],
}
"""What a command line, a TOML file and a cell of CSV may say of fields that have a flag and are no switch."""


COMMAND = typer.main.get_command(app)
"""Made once: `main` makes it anew for every call."""


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, said in TYPED.items() for text in said])
def test_the_command_line_and_its_files_refuse_every_wrong_value(name, text, tmp_path):
    (tmp_path / "in.mp4").touch()
    flag = flags(DeidSettings)[name]
    config, manifest = tmp_path / "study.toml", tmp_path / "list.csv"
    config.write_text(f"[deid]\n{flag.removeprefix('--')} = {json.dumps(text)}\n")
    manifest.write_text(f"input,{flag.removeprefix('--')}\nin.mp4,{json.dumps(text)}\n")
    command = ["deid", str(tmp_path / "in.mp4"), "-o", str(tmp_path / "out.mp4")]
    for words in ([*command, f"{flag}={text}"], [*command, "--config", str(config)]):
        with pytest.raises((UsageError, typer.BadParameter)) as typed:
            COMMAND.main(words, standalone_mode=False, obj=ErrorStyle())
        if isinstance(typed.value, UsageError) and not str(typed.value).startswith(str(config)):
            refused(name, WRONG[name][0], str(typed.value))
        else:  # a text that is no number at all does not come as far
            said = str(typed.value)
            place = typed.value.param.opts if isinstance(typed.value, typer.BadParameter) else said
            assert flag in place or flag.removeprefix("--") in place
            assert re.search("valid (integer|number)", said)
    if name in ("device", "threads"):
        return  # one for all rows
    with pytest.raises(UsageError, match=f"line 2: {re.escape(f'{name} ({flag}): ')}") as error:
        plan_batch([], DeidSettings(), manifest=manifest, output=tmp_path)
    refused(name, WRONG[name][0], str(error.value).partition("line 2: ")[2])
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "study.toml", "list.csv"}


def test_a_manifest_in_json_is_as_strict(tmp_path):
    (tmp_path / "in.mp4").touch()
    wrong = [("on-no-face", "Refuse"), ("on-no-face", 1), ("html", 1), ("crf", 1.5), ("region", [3]), ("mask", 5)]
    for number, (column, value) in enumerate(wrong):
        manifest = tmp_path / f"{number}.jsonl"
        manifest.write_text(json.dumps({"input": "in.mp4", column: value}))
        with pytest.raises(UsageError, match=rf"line 1: \w+ \(--{column}\): .* it takes "):
            plan_batch([], DeidSettings(), manifest=manifest, output=tmp_path / "out")


RIGHT = DeidSettings(
    VictimNames("retinaface", None, None),
    attack="MI-FGSM:mu=0.5,alpha=0.2",
    mask="Blur_20",
    eps="16 / 255",
    effort="best",
    drawer=Path("own.safetensors"),
    start=0,
    end=np.float64(2.5),
    camera=Path("camera.yml"),
    regions=("1,2,3,4@0-2",),
    embed="10, 20.5",
    repel=("none",),
)


def test_what_is_allowed_survives_json_and_pickle():
    assert settings_from_dict(json.loads(json.dumps(settings_to_dict(RIGHT)))) == RIGHT
    assert RIGHT.obscuring.cell(100.0) == 20, "what is cached is not pickled, or it could be forged"
    again = pickle.loads(pickle.dumps(RIGHT))
    assert again == RIGHT
    assert "obscuring" not in vars(again)
    assert settings_from_dict({"preset": "medium", "mask": "solid"}) == DeidSettings(mask="solid"), "an older report's"
    with pytest.raises(UsageError, match="on_no_face"):
        settings_from_dict({**settings_to_dict(RIGHT), "on_no_face": "Copy"})


def test_what_the_texts_mean():
    attack = RIGHT.attack_settings
    assert attack is not None
    assert (attack.method, attack.eps, attack.steps) == ("mi-fgsm", 16 / 255, 5)
    assert (attack.options["mu"], attack.options["alpha"], attack.options["decay"]) == (0.5, 0.2, 0.96)
    assert RIGHT.whose == (10.0, 20.5)
    assert RIGHT.manual_regions[0].end == 2.0
    assert DeidSettings(attack="None").attack_settings is None
    assert DeidSettings().warnings == ()
    assert DeidSettings(mask="pixelate_30").warnings[0].startswith("mask (--mask): pixelate_30 is weak")
    with pytest.raises(dataclasses.FrozenInstanceError):
        RIGHT.mask = "solid"  # type: ignore[misc]


# ------------------------------------------------------------------------------ what decides about covering


@pytest.mark.parametrize("value", ["Refuse", "", None, "hide"])
def test_nothing_is_left_open_for_a_value_that_nobody_knows(value):
    """Even for an object that only looks like settings."""
    reader: Any = SimpleNamespace(path=Path("in.mp4"), info=SimpleNamespace(height=8, width=8))
    likeness: Any = SimpleNamespace(on_no_face=value, max_gap=1.0, manual_regions=[], obscuring=Pixelate(5))
    with pytest.raises(AssertionError, match="unreachable"):
        plan_cover(Survey(), reader, likeness)


@pytest.mark.parametrize("value", ["pixelate_5", None, 5])
def test_no_image_comes_back_from_an_obscuring_that_nobody_knows(value):
    with pytest.raises(TypeError, match="is not an Obscuring"):
        obscure(np.zeros((8, 8, 3), np.uint8), [Region((0, 0, 8, 8), 2)], value)
