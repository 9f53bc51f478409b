"""Private weights: what they read, and what a holder of the other weights recovers.

    python -m tests.benchmarks.fork [NAME ...] [--steps N] [--seeds N] [--folder DIR]

Forks NAME (fan-compact, gaze-compact) with faces of faces68's training people, and measures on faces of its 36 other
people: the error by the set's own landmarks (fan-compact), the distance from the released weights, and who reads what
was embedded for whom, without and with repelling the other. With two seeds, also between the two forks. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from drsf_cli.readers.fork import FILES, gaze_crop, landmark_crop
from tests.benchmarks.main_job import SHARED
from victims.compact.fork import FAMILIES, Family, ForkSettings, clone, embedded, fork, obscured
from victims.compact.landmark_net import LandmarkNet, windows_of_boxes
from victims.compact.training.evaluate_landmarks import Crops, crops_of, normalised_errors
from victims.compact.training.faces68 import Faces68, boxes_of_landmarks, load_faces68
from weights.loading import load_state_dict
from weights.store import resolve


def crops(faces: Faces68, rows: np.ndarray, name: str) -> Tensor:
    boxes = boxes_of_landmarks(torch.from_numpy(faces.landmarks)).numpy()
    found = []
    for row in rows:
        one = (
            landmark_crop(faces.images[row], boxes[row])
            if name == "fan-compact"
            else gaze_crop(faces.images[row], faces.landmarks[row])
        )
        if one is not None:
            found.append(one)
    return torch.stack(found)


def readers(family: Family, base: Tensor, natural: Tensor, networks: dict[str, nn.Module], repel: bool) -> list[str]:
    """A row for each network embedded for: how far each one then reads from its own reading of the untouched faces."""
    lines = []
    with torch.no_grad():
        goals = {name: family.run(network, natural) for name, network in networks.items()}
    for target, network in networks.items():
        others = [other for name, other in networks.items() if name != target] if repel else []
        shown = torch.cat(
            [
                (part + embedded(family, part, goal, [network], others)).clamp(0, 1)
                for part, goal in zip(base.split(12), goals[target].split(12), strict=True)
            ]
        )
        with torch.no_grad():
            cells = [float(family.distance(family.run(n, shown), goals[name]).mean()) for name, n in networks.items()]
        lines.append(
            f"| embedded for {target}{', repelling the others' if repel else ''} | "
            + " | ".join(f"{cell:.1f}" for cell in cells)
            + " |"
        )
    return lines


def labelled(faces: Faces68) -> Crops:
    rows = np.flatnonzero(faces.is_validation)[::3]
    targets = torch.from_numpy(faces.landmarks[rows]).float()
    return crops_of([faces.images[row] for row in rows], windows_of_boxes(boxes_of_landmarks(targets)), targets)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=ForkSettings.steps)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--faces", type=int, default=1000, help="of the training people")
    parser.add_argument("--count", type=int, default=24, help="faces embedded in")
    parser.add_argument("--folder", type=Path, help="keep the forks here, and take those that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faces = load_faces68(SHARED / "data")
    for name in arguments.names:
        family = FAMILIES[name]
        public = clone(family, load_state_dict(resolve([FILES[name]]).path))
        networks: dict[str, nn.Module] = {"the released": public}
        for seed in range(arguments.seeds):
            kept = None if arguments.folder is None else arguments.folder / f"{name}-{seed}.safetensors"
            if kept is not None and kept.is_file():
                state = load_file(kept)
            else:
                rows = np.random.default_rng(0).permutation(np.flatnonzero(~faces.is_validation))[: arguments.faces]
                begun = time.monotonic()
                state = fork(family, public, crops(faces, rows, name), seed, ForkSettings(steps=arguments.steps))
                print(f"{name}, seed {seed}: {arguments.steps} steps in {(time.monotonic() - begun) / 60:.1f} min")
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    save_file({key: value.contiguous() for key, value in state.items()}, kept)
            networks[f"fork {seed}"] = clone(family, state)
        held_out = crops(faces, np.flatnonzero(faces.is_validation)[:: 441 // arguments.count], name)
        edge = (held_out.shape[-1] - family.size) // 2
        natural = held_out[..., edge : edge + family.size, edge : edge + family.size].float() / 255
        base = obscured(natural, family.cell, torch.Generator().manual_seed(0))
        print(f"\n{name}, {len(natural)} faces, distances in {family.unit}\n")
        print("| | " + " | ".join(f"{reader} read" for reader in networks) + " |")
        print("|---" * (1 + len(networks)) + "|")
        with torch.no_grad():
            truth = family.run(public, natural)
            away = [float(family.distance(family.run(n, natural), truth).mean()) for n in networks.values()]
            blind = [
                float(family.distance(family.run(n, base), family.run(n, natural)).mean()) for n in networks.values()
            ]
        print("| untouched, from the released | " + " | ".join(f"{value:.2f}" for value in away) + " |")
        if name == "fan-compact":
            known = labelled(faces)
            errors = [
                100 * float(normalised_errors(n, known).mean()) for n in networks.values() if isinstance(n, LandmarkNet)
            ]
            print("| untouched, from the labels | " + " | ".join(f"{value:.2f}" for value in errors) + " |")
        print("| obscured only | " + " | ".join(f"{value:.1f}" for value in blind) + " |")
        for repel in (False, True):
            print("\n".join(readers(family, base, natural, networks, repel)), flush=True)


if __name__ == "__main__":
    main()
