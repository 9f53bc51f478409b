"""Train the shade: a picture for all faces, taken off drawings that are fitted, that hides them (attacks/tuning.py).

    python -m attacks.training.shade --data DIR --strangers ZOO --output FILE.safetensors --minutes 8

Where a fit leads back to a face, strangers' gradients agree, in the coordinates of the drawing, from face to face and
from network to network: a gradient of RetinaFace's has a cosine of 0.18 with the mean over other faces, and of 0.10
with its own kin's on the same face. So one universal perturbation (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401)
takes away most of what they see. It is learnt on what drawers draw that were fitted to a few faces each, from the
bundled one on and with nothing repelled. One stranger pulls a batch, the more often the more it still sees. Families of
`--keep-out` have no part, and no face of the people kept out of faces68. A second run, with `--start`, learns from
drawers that were fitted with the first one's picture.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from attacks.drawer import DRAWN, EPS, DrawerNet, load_drawer, placed, square_of
from attacks.fitting.faces import ReadFaces
from attacks.fitting.hinges import hinge
from attacks.fitting.loop import RARE, Chain, Settings, Training
from attacks.fitting.scenes import Scene, draw_scene
from attacks.training.faces68 import read_faces68
from attacks.training.train import load_chain
from victims.base import Detector

SIDE = 64
"""Of the picture, px; it is drawn three times as large."""
FITS, STEPS, FACES = 6, 30, 16
"""Drawers that are fitted, the steps of each, and how many faces it learns from."""
KEPT = (10, 20, 30)
"""Steps after which a drawer is kept."""


def fitted_drawers(chain: Chain, faces: ReadFaces, seed: int, shade: Tensor) -> list[dict[str, Tensor]]:
    """Weights of drawers on their way, as a clip's fit leads them with the picture `shade` (1, 3, 192, 192)."""
    bundled = load_drawer(chain.observer.detector.name).network.state_dict()
    random, found = np.random.default_rng(seed), []
    own = Chain(chain.observer)
    for number in range(FITS):
        some = faces.of(random.choice(len(faces), FACES, replace=False))
        fit = Training(
            own, some, some, Settings(minutes=math.inf, rate=7e-4, weight_decay=0.0, warmup=5, most=4), number
        )
        fit.take_weights(bundled)
        fit.network.shade = shade / EPS
        for step in range(1, STEPS + 1):
            fit.step()
            if step in KEPT:
                found.append(copy.deepcopy(fit.network.state_dict()))
    return found


class Universal:
    """The picture (1, 3, SIDE, SIDE), grey levels, and its training."""

    def __init__(self, faces: ReadFaces, chain: Chain, levels: float, start: Path | None) -> None:
        self.faces, self.chain, self.levels = faces, chain, levels
        first = torch.zeros(3, SIDE, SIDE) if start is None else load_file(start)["shade"].float()
        self.picture = first[None].requires_grad_()
        self.optimiser = torch.optim.Adam([self.picture], betas=(0.9, 0.99))
        self.random = np.random.default_rng(0)
        self.training = Training(chain, faces, faces, Settings(), 0)
        self.drawer = DrawerNet().eval()
        self.strangers = [one for one in chain.repelled if isinstance(one, Detector)]
        self.seen = {one.name: 1.0 for one in self.strangers}
        self.drawers = fitted_drawers(chain, faces, 0, self.drawing().detach())

    def drawing(self) -> Tensor:
        """As it is drawn, (1, 3, 192, 192), of 1."""
        whole = (self.picture + self.picture.flip(3)) / 2
        return functional.interpolate(whole, (DRAWN, DRAWN), mode="bicubic") / 255.0

    def pixels(self, scene: Scene) -> Tensor:
        """What comes from the codec of a scene that one of the drawers drew, less the picture."""
        self.drawer.load_state_dict(self.drawers[int(self.random.integers(len(self.drawers)))])
        with torch.no_grad():
            drawn = EPS * self.drawer(Training._inputs(scene))
        base = torch.from_numpy(np.stack(scene.covered)).permute(0, 3, 1, 2) / 255.0
        change = placed((drawn - self.drawing()).clamp(-EPS, EPS), [square_of(b) for b in scene.boxes], scene.windows)
        sent = (base + change * torch.from_numpy(scene.masks)[:, None]).clamp(0.0, 1.0)
        received = self.training.channel(sent.detach())
        return sent + (received - sent).detach()

    def step(self, rate: float) -> None:
        """One batch."""
        shares = np.array([max(self.seen[one.name], RARE) for one in self.strangers])
        stranger = self.strangers[int(self.random.choice(len(shares), p=shares / shares.sum()))]
        scene = draw_scene(self.faces, self.chain.gaze, self.random, 8)
        objective = hinge(stranger, scene)
        assert objective is not None
        pixels = self.pixels(scene)
        reading = objective.read(pixels, list(range(len(pixels))))
        (own,) = torch.autograd.grad(reading.loss.sum(), pixels)
        size = own.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        weight = (reading.error / 0.3).clamp(0.0, 1.0).view(-1, 1, 1, 1)
        self.optimiser.zero_grad()
        pixels.backward(own / size * weight)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            strength = 255.0 * float(self.drawing().square().mean().sqrt())
            self.picture *= min(1.0, self.levels / max(strength, 1e-9))
        seen = float((reading.error > 0.5).float().mean())
        self.seen[stranger.name] = 0.96 * self.seen[stranger.name] + 0.04 * seen


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Train the picture that the drawer is fitted away from.")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces68.tar and its .npz")
    parser.add_argument("--strangers", type=Path, required=True, help="folder of the zoo's weights")
    parser.add_argument("--keep-out", default="faceboxes,ultraface", help="families that have no part, by commas")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--cache", type=Path, help=".npz file for what the chain reads (default: beside the output)")
    parser.add_argument("--faces", type=int, default=900, help="training pictures")
    parser.add_argument("--start", type=Path, help="picture to begin with, and to fit the drawers with")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--levels", type=float, default=4.0, help="root mean square of the picture, grey levels")
    parser.add_argument("--rate", type=float, default=0.3, help="grey levels a step, at first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.__dict__ |= {"detector": "mtcnn", "aligner": "fan-compact", "gaze": "gaze-compact"}
    options.__dict__ |= {"repel": ["retinaface", "blazeface"], "allow_unknown_weights": False}
    chain = load_chain(options)
    faces = read_faces68(
        options.data, chain.observer, False, options.faces, options.cache or options.output.with_suffix(".npz")
    )
    course = Universal(faces, chain, options.levels, options.start)
    began, done, due, steps = time.monotonic(), 0.0, 0.0, 0
    while done < 1.0:
        course.step(options.rate * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.01)
        steps += 1
        done = (time.monotonic() - began) / 60.0 / options.minutes
        if done >= due or done >= 1.0:
            due += 0.1
            whole = ((course.picture + course.picture.flip(3)) / 2).detach()[0]
            save_file({"shade": whole.half().contiguous()}, options.output)
            print(
                json.dumps({"steps": steps} | {name: round(share, 2) for name, share in course.seen.items()}),
                flush=True,
            )


if __name__ == "__main__":
    main()
