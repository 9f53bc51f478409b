"""Fitting a drawer to a chain, on one core.

The chain's victims are frozen and read in a row, as at decode time, from tiles that went through x264. Each victim's
gradient of the drawing has unit length, times its error in tolerances (attacks.embed.TOLERANCES), and their sum goes
back through the network. What is used in the end is the moving average of the weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from attacks.drawer import EPS, Attributes, DrawerNet, inputs_of, placed, square_of
from attacks.embed import TOLERANCES
from attacks.fitting.channel import Channel
from attacks.fitting.faces import ReadFaces
from attacks.fitting.hinges import hinge
from attacks.fitting.scenes import Gaze, Scene, draw_scene, make_scene, tile_side
from attacks.obscure import parse_obscuring
from victims.base import Network, Objective, Reading, Victim
from victims.boxes import iou
from victims.camera import Camera
from victims.compact.averaging import MovingAverage
from victims.mediapipe.blazeface import BlazeFace
from victims.mediapipe.facemesh import FaceMesh
from victims.mediapipe.iris import IrisGaze
from victims.observe import Observer

CODED = 0.85
"""Share of batches that go through the encoder."""
FAR = 8.0
"""Tolerances from which a victim's error counts whole."""
LEAST = 0.02
"""What a victim counts at least."""
OWN_BOX = 0.5
"""IoU under which a detected box is another face's: the next victim then gets the target's."""
SEEN = 0.1
"""Score from which on a repelled model counts whole."""
RARE = 0.05
"""A repelled model is chosen as often as faces are seen by it, and as if by at least this share."""
VALIDATION_HEIGHTS = (100.0, 190.0)
BFLOAT16 = any(torch.cpu.get_capabilities().get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))
"""Whether this processor has units for bfloat16: without, it takes four times as long as float32, not a quarter."""


@dataclass
class Settings:
    """What a training run may be told."""

    minutes: float = 60.0
    """The learning rate falls over them, by the process's own time."""
    rate: float = 1.5e-3
    weight_decay: float = 1e-4
    average: float = 0.998
    warmup: int = 100
    faint: float = 15.0
    """Root mean square in the face's box, grey levels, over which a drawing is asked to be fainter."""
    faint_weight: float = 0.5
    """Of that gradient, at unit length, where a drawing is a quarter too strong."""
    repel_weight: float = 0.0
    """Of the gradient that keeps a repelled model from reading, at unit length."""
    gazeless: float = 0.05
    """Share of batches without gaze, and of those without landmarks."""
    most: int = 0
    """Faces of a batch at most; 0: as many as `attacks.fitting.scenes.MOST`."""


class Fast(nn.Module):
    """A victim's network that runs in bfloat16 where a gradient is wanted and the processor has units for it.

    Those with matrix units are four times as fast at it, and what it costs in accuracy is far below what the codec
    does. `hasten` leaves MediaPipe's networks out, whose outputs are pixels of 128 or 192: their gradients would point
    elsewhere (cosine 0.74 to 0.97 with float32's), and a sample takes 0.14 s in place of 0.10 s, since their layers are
    depthwise.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        if isinstance(network, nn.Module):
            network.to(memory_format=torch.channels_last)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, in float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BFLOAT16 and torch.is_grad_enabled()):
            return tuple(output.float() for output in self.network(*inputs))


def hasten(victim: Victim) -> None:
    """Make the victim's networks `Fast`, where that is faster and true enough."""
    if not isinstance(victim, BlazeFace | FaceMesh | IrisGaze):
        victim.networks = {name: Fast(network) for name, network in victim.networks.items()}


@dataclass
class Chain:
    """The victims, frozen, and the models that are to read nothing."""

    observer: Observer
    repelled: Sequence[Victim] = ()
    watched: Sequence[Victim] = ()
    """Are to read nothing either, and have no part in the training."""

    @property
    def gaze(self) -> Gaze | None:
        """The gaze estimator; None where the chain has none."""
        look = self.observer.gaze
        assert look is None or isinstance(look, Gaze)
        return look

    def objectives(self, scene: Scene) -> dict[str, Objective]:
        """By role, for a scene; the windows are its tiles."""
        own, windows = self.observer, scene.windows
        if own.aligner is None or scene.attributes[0].landmarks is None:
            found = {"detector": own.detector.objective(scene.covered, windows, scene.boxes)}
        else:
            found = {"detector": own.aligner.detector_objective(own.detector, scene.covered, windows, scene.faces)}
            found["aligner"] = own.aligner.objective(scene.covered, windows, scene.faces)
            if own.gaze is not None and scene.attributes[0].gaze_angle is not None:
                found["gaze"] = own.gaze.objective(scene.covered, windows, scene.landmarks, scene.gaze, scene.camera)
        return found

    def read(self, scene: Scene, objectives: Mapping[str, Objective], pixels: Tensor) -> dict[str, Reading]:
        """What each victim reads of `pixels` (n, 3, S, S), from what the one before it read."""
        items = list(range(len(pixels)))
        readings: dict[str, Reading] = {}
        geometry: Tensor | None = None
        mesh: Tensor | None = None
        for role, objective in objectives.items():
            given = mesh if objective.takes_mesh and mesh is not None else geometry
            readings[role] = objective.read(pixels, items, given)
            geometry, mesh = readings[role].output, readings[role].mesh
            if role == "detector":
                boxes = geometry.double().numpy()
                stray = ~(iou(np.nan_to_num(boxes), scene.boxes) >= OWN_BOX)
                geometry = geometry.clone()
                geometry[torch.from_numpy(stray)] = torch.nan
        return readings


class Training:
    """One run; `step` is one batch."""

    def __init__(self, chain: Chain, faces: ReadFaces, held: ReadFaces, settings: Settings, seed: int) -> None:
        self.chain, self.faces, self.held, self.settings = chain, faces, held, settings
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.network = DrawerNet().to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
        )
        self.average = MovingAverage(self.network, settings.average)
        self.channel = Channel(self.random)
        self.minutes, self.samples, self.steps = 0.0, 0, 0
        self.errors: dict[str, float] = {}

    # -- one batch --------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Draw a scene, attack it and move the weights once."""
        began = time.monotonic()
        scene = self._partial(self._scene())
        self._backward(scene)
        self._update()
        self.steps += 1
        self.samples += len(scene.covered)
        # a pause of the machine is no training time
        self.minutes += min(time.monotonic() - began, 30.0) / 60.0

    def _scene(self) -> Scene:
        return draw_scene(self.faces, self.chain.gaze, self.random, self.settings.most)

    def _backward(self, scene: Scene) -> None:
        """Leave the weights' gradients with them."""
        self.network.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BFLOAT16):
            drawn = EPS * self.network(self._inputs(scene))
        leaf = drawn.detach().requires_grad_()
        gradient = self._gradient(scene, leaf)
        self.optimiser.zero_grad()
        drawn.backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 50.0)

    def _update(self) -> None:
        s = self.settings
        progress = min(self.minutes / s.minutes, 1.0)
        rate = s.rate * min((self.steps + 1) / s.warmup, 0.5 + 0.5 * math.cos(math.pi * progress) + 0.01)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.average.update(self.network)

    def _partial(self, scene: Scene) -> Scene:
        """Some scenes without gaze, some without landmarks either: chains may lack the victims for them."""
        pick = self.random.random()
        if pick > 2 * self.settings.gazeless:
            return scene
        kept = pick > self.settings.gazeless
        cut = [replace(one, gaze_angle=None) if kept else Attributes(one.box) for one in scene.attributes]
        return replace(scene, attributes=cut)

    @staticmethod
    def _inputs(scene: Scene) -> Tensor:
        images = [torch.from_numpy(image).permute(2, 0, 1) for image in scene.covered]
        return inputs_of(images, scene.attributes).contiguous(memory_format=torch.channels_last)

    def _gradient(self, scene: Scene, leaf: Tensor) -> Tensor:
        """Of the drawings (n, 3, 192, 192), all victims together."""
        base = torch.from_numpy(np.stack(scene.covered)).permute(0, 3, 1, 2).float() / 255.0
        mask = torch.from_numpy(scene.masks)[:, None]
        change = placed(leaf, [square_of(box) for box in scene.boxes], scene.windows) * mask
        sent = (base + change).clamp(0.0, 1.0)
        received = (sent.detach() * 255.0).round() / 255.0
        if self.random.random() < CODED:
            received = self.channel(received)
        pixels = sent + (received - sent).detach()
        readings = self.chain.read(scene, self.chain.objectives(scene), pixels)
        parts = []
        for role, reading in readings.items():
            (own,) = torch.autograd.grad(reading.loss.sum(), leaf, retain_graph=True)
            error = torch.nan_to_num(reading.error, posinf=1e3) / TOLERANCES[role]  # type: ignore[index]
            parts.append(_unit(own) * (error / FAR).clamp(LEAST, 1.0).view(-1, 1, 1, 1))
            self._note(role, float(error.clamp_max(100.0).mean()))
        parts.append(self._faint(leaf, change, scene))
        if self.chain.repelled and self.settings.repel_weight > 0:
            parts.append(self._repelled(scene, pixels, leaf))
        return torch.stack(parts).sum(dim=0)

    def _faint(self, leaf: Tensor, change: Tensor, scene: Scene) -> Tensor:
        """Towards a fainter drawing, where one is stronger than it may be by now."""
        s = self.settings
        size = torch.tensor(strengths(change.detach(), scene.boxes))
        self._note("rms", float(size.mean()))
        weight = s.faint_weight * ((size / s.faint - 1.0) / 0.25).clamp(0.0, 2.0)
        return _unit(leaf.detach()) * weight.view(-1, 1, 1, 1).float()

    def _repelled(self, scene: Scene, pixels: Tensor, leaf: Tensor) -> Tensor:
        """Away from what one of the repelled models reads."""
        shares = np.array([max(self.errors.get(f"seen {one.name}", 1.0), RARE) for one in self.chain.repelled])
        victim = self.chain.repelled[int(self.random.choice(len(shares), p=shares / shares.sum()))]
        objective = hinge(victim, scene)
        if objective is None:
            return torch.zeros_like(leaf)
        reading = objective.read(pixels, list(range(len(pixels))))
        (own,) = torch.autograd.grad(reading.loss.sum(), leaf, retain_graph=True)
        self._note(f"seen {victim.name}", float((reading.error > 0.5).float().mean()))
        weight = self.settings.repel_weight * (reading.error / SEEN).clamp(0.0, 1.0)
        return _unit(own) * weight.view(-1, 1, 1, 1)

    def _note(self, name: str, value: float) -> None:
        self.errors[name] = 0.98 * self.errors.get(name, value) + 0.02 * value

    # -- how good it is ---------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """What the chain reads from the people kept out, at CRF 23, a key frame."""
        random, mosaic = np.random.default_rng(0), parse_obscuring("pixelate_5")
        network = DrawerNet()
        network.load_state_dict(self.average.state)
        network.eval()
        rows: dict[str, list[np.ndarray]] = {}
        for number, height in enumerate(VALIDATION_HEIGHTS):
            side = tile_side(height)
            camera = Camera.default(2 * side, side)
            own = np.arange(number, len(self.held), len(VALIDATION_HEIGHTS))
            for chosen in np.array_split(own, max(1, len(own) // 8)):
                scene = make_scene(self.held, chosen, height, camera, mosaic, self.chain.gaze, random, False)
                for name, values in evaluate(self.chain, network, scene, self.channel).items():
                    rows.setdefault(name, []).append(values)
        joined = {name: np.concatenate(values) for name, values in rows.items()}
        return summary(joined)

    def take_weights(self, state: Mapping[str, Tensor]) -> None:
        """Begin with these weights."""
        self.network.load_state_dict(state)
        self.average = MovingAverage(self.network, self.settings.average)


@torch.no_grad()
def evaluate(chain: Chain, network: DrawerNet, scene: Scene, channel: Channel, crf: int = 23) -> dict[str, np.ndarray]:
    """Per face: `iou` (0 where none is found), `nme` %, `gaze` degrees, `rms` grey levels in the face's box."""
    base = torch.from_numpy(np.stack(scene.covered)).permute(0, 3, 1, 2).float() / 255.0
    drawn = EPS * network(Training._inputs(scene))
    change = (
        placed(drawn, [square_of(box) for box in scene.boxes], scene.windows) * torch.from_numpy(scene.masks)[:, None]
    )
    pixels = channel((base + change).clamp(0.0, 1.0), crf)
    readings = chain.read(scene, chain.objectives(scene), pixels)
    found = {"rms": np.array(strengths(change, scene.boxes))}
    found["iou"] = 1.0 - readings["detector"].error.clamp_max(1.0).numpy()
    if "aligner" in readings:
        found["nme"] = 100.0 * readings["aligner"].error.numpy()
    if "gaze" in readings:
        found["gaze"] = readings["gaze"].error.numpy()
    for victim in (*chain.repelled, *chain.watched):
        objective = hinge(victim, scene)
        if objective is not None:
            found[f"seen {victim.name}"] = objective.read(pixels, list(range(len(pixels)))).error.numpy()
    return found


def summary(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means, over the faces that were found; the share that was; the share that repelled models read."""
    found = rows["iou"] > OWN_BOX
    result = {"found": float(found.mean())}
    for name, values in rows.items():
        if name.startswith("seen"):
            result[name] = float((values > 0.5).mean())
        else:
            result[name] = float(values[found & np.isfinite(values)].mean()) if found.any() else float("nan")
    return {name: round(value, 4) for name, value in result.items()}


def strengths(change: Tensor, boxes: np.ndarray) -> list[float]:
    """Root mean square of perturbations (n, 3, h, w) in faces' boxes (n, 4), grey levels."""
    sizes = []
    for own, box in zip(change, np.round(boxes).astype(int).clip(0), strict=True):
        part = own[:, box[1] : box[3], box[0] : box[2]]
        sizes.append(255.0 * float(part.square().mean().sqrt()))
    return sizes


def _unit(gradient: Tensor) -> Tensor:
    """Each row at unit length; 0 where it is 0 or not a number."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    size = gradient.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(size > 1e-12, gradient / size.clamp_min(1e-12), torch.zeros_like(gradient))
