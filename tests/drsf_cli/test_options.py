"""Flags from a file, help that fits a screen, completion, one-line errors: what a user meets first."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main

from attacks.codec import CODECS
from attacks.steps import METHODS
from drsf_cli.app import app, main
from drsf_cli.media.demo_clip import make_demo_clip
from victims import registry
from weights import errors

ROOT = Path(__file__).resolve().parents[2]
LINES, COLUMNS = 50, 110


def commands() -> dict[tuple[str, ...], typer.main.TyperCommand]:
    """Every command with its words, groups too."""
    found = {}

    def walk(command, words):
        found[words] = command
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


LEAVES = [words for words, command in commands().items() if not hasattr(command, "commands")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_demo_clip(tmp_path_factory.mktemp("clip") / "driver.mp4", seconds=0.12, size=(320, 240))


def settings_of(output: Path) -> dict:
    return json.loads(Path(f"{output}.report.json").read_text())["settings"]


# ---------------------------------------------------------------------------------------------- --config


@pytest.mark.slow
def test_a_file_says_what_flags_say_and_typed_flags_win(clip, tmp_path, capsys):
    config = tmp_path / "study.toml"
    config.write_text(
        '[deid]\nmask = "solid"\nattack = "none"\ncrf = 30\nregion = ["0,0,20,20", "40,0,60,20@0-1"]\nend = 9\n'
        "html = true\nquiet = true\n[infer]\nbatch-size = 2\n"
    )
    output = tmp_path / "out.mp4"
    assert main(["deid", str(clip), "-o", str(output), "--config", str(config), "--crf", "18"]) == 0
    assert capsys.readouterr().out == "", "quiet, as the file says"
    settings = settings_of(output)
    assert (settings["mask"], settings["attack"], settings["crf"]) == ("solid", "none", 18)
    assert settings["regions"] == ["0,0,20,20", "40,0,60,20@0-1"]
    assert settings["end"] == 9.0
    assert settings["html"] is True
    assert (tmp_path / "out.mp4.report.html").read_text().startswith("<!DOCTYPE html>")
    assert settings["on_no_face"] == "refuse", "the default of what neither names"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('[deid]\nmaks = "solid"\n', 2, r"\[deid\] has no maks; it takes .*codec, .*crf, .*detector.*mask"),
        ('[deid]\ncrf = "fine"\n', 2, "crf = 'fine' cannot be used"),
        ("[deid]\nhtml = 1\n", 2, "html = 1 must be true or false"),
        ("[deid]\nquiet = [true]\n", 2, "quiet"),
        ('[deid]\nmask = ["solid"]\n', 2, "mask takes one value"),
        ("[deid]\nmask = true\n", 2, "mask = True must be a text or a number"),
        ('[deid]\nhelp = "x"\n', 2, "has no help"),
        ('[deid]\nconfig = "x"\n', 2, "has no config"),
        ('mask = "solid"\n', 2, "mask stands above every table"),
        ("[infer]\nmask = 3\n", 2, r"\[infer\] has no mask"),
        ("[weights.fork]\nmask = 3\n", 2, r"\[weights.fork\] has no mask; it takes .*steps"),
        ("[weights.pull]\nall = true\n", 2, r"\[weights.pull\] is not a command .*weights.fork"),
        ("weights = 3\n", 2, "weights stands above every table"),
        ("[drive]\nmask = 3\n", 2, r"\[drive\] is not a command .*deid"),
        ("mask = \n", 3, "is not TOML"),
        (None, 3, "cannot be read"),
    ],
)
def test_what_a_file_cannot_say_is_refused(clip, tmp_path, capsys, text, code, said):
    config = tmp_path / "study.toml"
    if text is not None:
        config.write_text(text)
    assert main(["deid", str(clip), "-o", str(tmp_path / "out.mp4"), "--config", str(config)]) == code
    printed = capsys.readouterr().err
    assert re.search(said, printed)
    assert "study.toml" in printed
    assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir() if path != config] == []


NOTHING_TO_SET = [("doctor",), *(("weights", name) for name in ("list", "pull", "import", "verify", "path"))]


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_with_settings_takes_a_file(words):
    takes = "--config" in [name for parameter in commands()[words].params for name in parameter.opts]
    assert takes == (words not in NOTHING_TO_SET)


def test_a_command_of_a_group_finds_its_table(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "drsf_cli.readers.fork.fork_weights", lambda *arguments, **given: seen.update(given) or SimpleNamespace()
    )
    config = tmp_path / "study.toml"
    config.write_text('[deid]\nmask = "solid"\n[weights.fork]\nsteps = 7\nseed = 3\nquiet = true\n')
    arguments = ["weights", "fork", "fan-compact", "--data", "faces", "-o", "own.safetensors", "--seed", "5"]
    assert main([*arguments, "--config", str(config)]) == 0
    assert (seen["steps"], seen["seed"]) == (7, 5), "the typed flag wins"


# ------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", list(commands()), ids=lambda words: " ".join(words) or "drsf")
def test_help_fits_a_screen(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_help_has_an_example_that_the_command_understands(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    main([*words, "--help"])
    examples = re.findall(r"Example: drsf (.*)", capsys.readouterr().out)
    assert examples
    for example in examples:
        typed = example.split("&&")[0].split()
        assert tuple(typed[: len(words)]) == words
        command = commands()[words]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in typed if word.startswith("-")} <= known


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_what_a_command_writes_and_replaces_is_in_a_panel_of_its_own(words):
    panels = {name: getattr(p, "rich_help_panel", None) for p in commands()[words].params for name in p.opts}
    for flag in ("--output", "--json", "--csv", "--plot", "--html", "--overwrite"):
        if flag in panels and (words, flag) != (("viz",), "--json"):  # which is read there
            assert panels[flag] == "Input and output", flag
    for flag in ("--quiet", "--device", "--config", "--help-all"):
        assert panels.get(flag) is None, f"{flag} is beside --help"
    if any(getattr(p, "hidden", False) for p in commands()[words].params if p.param_type_name == "option"):
        assert "--help-all" in panels, "shows what is hidden"


def test_what_help_leaves_out_help_all_shows(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    shown = []
    for flag in ("--help", "--help-all"):
        assert main(["deid", flag]) == 0
        shown.append(set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)))
    every = {name for p in commands()[("deid",)].params for name in p.opts if name.startswith("--")}
    assert every <= shown[1]
    assert {"--mask", "--attack", "--config", "--dry-run", "--help-all"} <= shown[0] < shown[1]
    hidden = {p.opts[-1] for p in commands()[("deid",)].params if getattr(p, "hidden", False)}
    assert "--drawer" in hidden


def test_deid_has_few_options():
    """At most 40 in all, of which --help shows at most 20, itself included."""
    options = [p for p in commands()[("deid",)].params if p.param_type_name == "option"]
    assert len(options) + 1 <= 40
    assert len([p for p in options if not p.hidden]) + 1 <= 20


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["deid", "--bogus"], 2, "No such option: --bogus"),
        (["deid"], 2, "no input"),
        (["bogus"], 2, "bogus"),
        (["deid", "none.mp4", "--crf", "many"], 2, "--crf"),
        (["deid", "none.mp4", "--crf", "99"], 2, "crf (--crf): 99"),
        (["deid", "none.mp4", "--attack", "magic"], 2, "attack (--attack): 'magic'"),
        (["deid", "none.mp4", "-d", "magic"], 2, "detector (-d): 'magic'"),
        (["deid", "none.mp4"], 3, "none.mp4 does not exist"),
        (["viz", "none.mp4", "-o", "out.mp4", "--mask", "solid"], 2, "--compare"),
        (["weights", "pull"], 2, "weights pull"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(arguments, code, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert said in printed.err


def test_debug_lets_the_traceback_through(tmp_path, monkeypatch):
    monkeypatch.delenv("DRSF_DEBUG", raising=False)
    with pytest.raises(errors.InputError, match=r"none\.mp4"):
        main(["--debug", "deid", str(tmp_path / "none.mp4")])
    assert main(["deid", str(tmp_path / "none.mp4")]) == 3, "the next command of the process has no --debug"


def test_the_readme_names_every_exit_code():
    """Those of weights/errors.py, read from its source, and that of Ctrl-C."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("### Exit codes")[1].split("\n## ")[0]
    named = {int(code) for code in re.findall(r"(?:^|· ?|\n)(\d+) ", section)}
    tree = ast.parse(Path(errors.__file__).read_text())
    codes = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "exit_code"
    }
    assert named == codes | {0, 130}
    drawn = {int(code) for code in re.findall(r"Error +(\d+) ", errors.__doc__ or "")}
    assert drawn == codes


# ------------------------------------------------------------------------------------------- completion


@pytest.fixture
def complete(monkeypatch, capsys):
    """What Bash is given for words typed so far: it runs the program with these in the environment."""

    def answers(line):
        monkeypatch.setenv("_DRSF_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        with pytest.raises(SystemExit) as done:
            main([])
        assert done.value.code == 0
        return capsys.readouterr().out.split()

    return answers


@pytest.mark.slow
@pytest.mark.parametrize("line", ["drsf deid -d ", "drsf deid --effort ", "drsf in"])
def test_completion_waits_for_no_torch(line):
    program = (
        "import sys\nfrom drsf_cli.app import main\ntry:\n    main([])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    answers = {"_DRSF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **answers}, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_completion_knows_commands_flags_and_values(complete):
    assert {words[0] for words in LEAVES} == set(complete("drsf "))
    assert set(complete("drsf de")) == {"deid", "demo"}
    assert complete("drsf deid --de") == ["--detector", "--device"]
    assert complete("drsf deid --attack ") == ["none", *METHODS]
    assert complete("drsf deid --attack ad") == [name for name in METHODS if name.startswith("ad")]
    for flag, role in (("-d", "detector"), ("-a", "aligner"), ("-z", "gaze")):
        assert complete(f"drsf deid {flag} ") == registry.names(role)
    assert complete("drsf deid --codec ") == list(CODECS)
    assert "pull" in complete("drsf weights ")


def test_completion_can_be_installed(tmp_path, monkeypatch, capsys):
    """For Bash, in a home of its own: the script calls drsf back."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as done:
        main(["--install-completion", "bash"])
    assert done.value.code == 0
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and "_DRSF_COMPLETE" in path.read_text()]
    assert len(scripts) == 1
    assert "bash" in capsys.readouterr().out
