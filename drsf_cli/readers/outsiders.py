"""Models that were not authorised: those with which others may read a de-identified video.

They are named as in the table of readers (drsf_cli/readers/table.py): NAME, or NAME@FILE for a victim with other
weights or an exported network, and for detectors that are an ONNX file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from drsf_cli.readers.models import Models, torch_device
from drsf_cli.readers.table import READERS, find_reader
from export.device import Device
from export.session import authorised
from victims.base import Role, Victim
from weights.errors import InputError, UsageError, WeightsError


@dataclass(frozen=True, eq=False)
class Outsider:
    """One model that was not authorised."""

    name: str
    """As typed, or as the registry has it."""
    victim: Victim
    """A torch network or a session; any other kind of detector is wrapped as a `Detector`."""

    @property
    def role(self) -> Role:
        """Detector, aligner or gaze estimator."""
        return self.victim.role

    def reader(self, device: Device) -> Victim:
        """The model as a reader runs it: a torch network runs through ONNX Runtime."""
        plain = all(isinstance(network, torch.nn.Module) for network in self.victim.networks.values())
        return authorised(self.victim, device) if self.victim.networks and plain else self.victim


def outsiders_at_hand(models: Models) -> dict[str, Outsider]:
    """Every reader that needs no file, whose weights or packages are installed, and that is not one of `models`."""
    found: dict[str, Outsider] = {}
    for name, spec in READERS.items():
        if spec.file == "must":
            continue
        try:
            victim = spec.load(None, False)
        except WeightsError:
            continue
        if not is_authorised(victim, models):
            found[name] = Outsider(name, victim)
    return found


def named_outsiders(
    texts: Iterable[str], models: Models, allow_unknown: bool = False, flag: str = "--against"
) -> dict[str, Outsider]:
    """The models that `texts` name; `all` is every installed one. Raises UsageError, WeightsError, InputError."""
    found: dict[str, Outsider] = {}
    for text in split_names(texts):
        if text.lower() == "all":
            found |= outsiders_at_hand(models)
        else:
            found[text] = _load(text, allow_unknown, flag)
    for name, outsider in found.items():
        if is_authorised(outsider.victim, models):
            raise UsageError(f"{flag} {name} is authorised: it reads everything on purpose; name another model.")
    return found


def is_authorised(victim: Victim, models: Models) -> bool:
    """Whether `models` hold this victim with these very weights."""
    own = models.torch_chain.victims.get(victim.role)
    return own is not None and own.name == victim.name and set(own.weights.values()) == set(victim.weights.values())


def repelled_victims(texts: Iterable[str], models: Models, allow_unknown: bool = False) -> dict[str, Victim]:
    """Victims to repel, on the device of `models`; `all` is every installed one with a gradient, and `none` is none.

    Raises UsageError for a model without a gradient, and for one that is authorised.
    """
    chosen: dict[str, Victim] = {}
    for text in split_names(texts):
        if text.lower() == "none":
            continue
        if text.lower() == "all":
            chosen |= {name: one.victim for name, one in outsiders_at_hand(models).items() if one.victim.networks}
            continue
        for name, one in named_outsiders([text], models, allow_unknown, "--repel").items():
            networks = one.victim.networks.values()
            if not networks or not all(isinstance(network, torch.nn.Module) for network in networks):
                raise UsageError(f"--repel {name}: this model has no gradient to be repelled by; leave it out.")
            chosen[name] = one.victim
    where = torch_device(models.device)
    return {name: victim.to(where) for name, victim in chosen.items()}


def split_names(texts: Iterable[str]) -> list[str]:
    """Names, separated by commas or given one by one."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _load(text: str, allow_unknown: bool, flag: str) -> Outsider:
    _, spec, file = find_reader(text, flag)
    try:
        return Outsider(text, spec.load(file, allow_unknown))
    except (InputError, UsageError) as error:
        raise type(error)(f"{flag} {error}") from error
