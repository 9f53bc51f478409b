"""The models that a drawer is trained against, and those that are only looked at.

The next stranger has other weights. So while a gradient is wanted, looks differ in size and place (see `looks`), and
channels are dropped in the network half of the time (ghost networks, Li et al. 2020, arXiv 1812.03413).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.training.strangers.centerface import CenterFace
from attacks.training.strangers.zoo import is_of, load_zoo
from victims.base import Victim

DROPPED = 0.05
"""Share of channels."""
WHOLE = 0.5
"""Share of readings without a channel dropped: a deep network that lacks some in every layer reads nothing at all, and
then there is nothing to be learnt from it (PFLD, seen 0 % in training and 94 % as it is)."""


def strangers(folder: Path, keep_out: Collection[str]) -> tuple[list[Victim], list[Victim]]:
    """The zoo in `folder` and CenterFace: those to train against, and those of `keep_out`, which are only looked at.

    Raises WeightsError.
    """
    everyone = load_zoo(folder) | {CenterFace.name: CenterFace()}
    for victim in everyone.values():
        for network in victim.networks.values():
            if isinstance(network, nn.Module):
                ghost(network)
    apart = [victim for name, victim in everyone.items() if is_of(name, keep_out)]
    return [victim for victim in everyone.values() if victim not in apart], apart


def ghost(network: nn.Module) -> None:
    """Channels are dropped after each normalisation, in some readings, while gradients are enabled."""
    dropping = False

    def begin(_module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        nonlocal dropping
        dropping = torch.is_grad_enabled() and float(torch.rand(())) >= WHOLE

    def drop(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return functional.dropout2d(output, DROPPED) if dropping else output

    network.register_forward_pre_hook(begin)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(drop)
