"""Train the drawer of a chain on faces68, against strangers if there are any; see attacks/fitting/loop.py.

    python -m attacks.training.train --data DIR --output FILE.safetensors --minutes 60

DIR holds faces68.tar and faces68_landmarks.npz. Every few minutes the weights are written to FILE, the state of the
training to FILE.state (from which it goes on when it is started again), and what is read from the people kept out to
FILE.log. `drsf weights fit` does the same for anybody's pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from attacks.drawer import load_drawer
from attacks.fitting.channel import Channel
from attacks.fitting.loop import Chain, Settings, Training, hasten
from attacks.training.ahead import Ahead
from attacks.training.faces68 import read_faces68
from attacks.training.strangers.ensemble import strangers
from victims import registry
from victims.base import Victim
from victims.observe import Observer

log = logging.getLogger(__name__)


def load_chain(options: argparse.Namespace) -> Chain:
    """The victims named as on drsf's command line; `none` leaves gaze out."""
    unknown = options.allow_unknown_weights
    observer = Observer(
        registry.load_detector(options.detector, unknown),
        registry.load_aligner_named(options.aligner, unknown),
        None if options.gaze == "none" else registry.load_gaze_named(options.gaze, unknown),
    )
    repelled: list[Victim] = []
    for number, name in enumerate(options.repel):
        role = registry.role_of(name)
        repelled.append(registry.load(name, "detector" if role is None else role, unknown))
        repelled[-1].name += f" {number}"
    watched: list[Victim] = []
    if options.strangers is not None:
        others, watched = strangers(options.strangers, options.keep_out.split(","))
        repelled += others
    for victim in (*observer.victims.values(), *repelled, *watched):
        hasten(victim)
    return Chain(observer, repelled, watched)


def save(training: Training, output: Path) -> None:
    """Write the weights to `output` and the state beside it, each whole or not at all."""
    temporary = output.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in training.average.state.items()}, temporary)
    os.replace(temporary, output)
    everything = {
        "network": training.network.state_dict(),
        "optimiser": training.optimiser.state_dict(),
        "average": training.average.state,
        "average_steps": training.average.steps,
        "counts": (training.minutes, training.samples, training.steps),
    }
    torch.save(everything, temporary)
    os.replace(temporary, output.with_suffix(".state"))


def resume(training: Training, path: Path) -> None:
    """Go on from a state that `save` wrote."""
    state = torch.load(path, weights_only=True)
    training.network.load_state_dict(state["network"])
    training.optimiser.load_state_dict(state["optimiser"])
    training.average.state, training.average.steps = state["average"], state["average_steps"]
    training.minutes, training.samples, training.steps = state["counts"]
    training.random = np.random.default_rng(training.steps)
    training.channel = Channel(training.random)


def run(training: Training, output: Path, every: float, told: Callable[[dict[str, float]], None]) -> None:
    """Train to the end of the schedule; after so many minutes save, and tell what is read of the people kept out."""
    due = training.minutes + min(0.5, every)
    while training.minutes < training.settings.minutes:
        training.step()
        if training.minutes >= due or training.minutes >= training.settings.minutes:
            due = training.minutes + every
            save(training, output)
            told(training.validate())


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Train the drawer of a chain.")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces68.tar and its .npz")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--cache", type=Path, help="folder for what the chain reads (default: beside the output)")
    parser.add_argument("--detector", default="mtcnn")
    parser.add_argument("--aligner", default="fan-compact")
    parser.add_argument("--gaze", default="gaze-compact")
    parser.add_argument("--repel", action="append", default=[], help="model that is to read nothing; repeatable")
    parser.add_argument("--strangers", type=Path, help="folder of the zoo's weights: all of it is to read nothing")
    parser.add_argument("--keep-out", default="", help="families of the zoo that are only looked at, by commas")
    parser.add_argument("--allow-unknown-weights", action="store_true")
    parser.add_argument("--faces", type=int, default=1600, help="training pictures")
    parser.add_argument("--start", type=Path, help="safetensors file to begin with")
    parser.add_argument("--ahead", action="store_true", help="train it for what fits make of it (ahead.py)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", type=float, default=4.0, help="minutes between validations")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)

    chain = load_chain(options)
    folder = options.cache or options.output.parent
    key = f"{options.detector}_{options.aligner}_{options.gaze}".replace("/", "_").replace("@", "_")
    sets = [
        read_faces68(
            options.data, chain.observer, held, count, folder / f"{key}_{'held' if held else 'own'}_{count}.npz"
        )
        for name, held, count in (("own", False, options.faces), ("held", True, 48))
    ]
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    course = Ahead if options.ahead else Training
    training = course(chain, sets[0], sets[1], settings, options.seed)
    state = options.output.with_suffix(".state")
    if state.is_file():
        resume(training, state)
    elif options.start is not None:
        training.take_weights(load_drawer(options.detector, options.start, allow_unknown=True).network.state_dict())

    def told(read: dict[str, float]) -> None:
        mean = {name: round(value, 3) for name, value in training.errors.items()}
        line = {"minutes": round(training.minutes, 1), "samples": training.samples, "training": mean, **read}
        log.info("%s", json.dumps(line))
        with options.output.with_suffix(".log").open("a") as file:
            file.write(json.dumps(line) + "\n")

    run(training, options.output, options.validate, told)


if __name__ == "__main__":
    main()
