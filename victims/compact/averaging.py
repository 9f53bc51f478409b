"""Weights as they are used: the mean over the last steps of training."""

from __future__ import annotations

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's weights and batch statistics (short at first, then `decay`)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's weights after one more step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 20))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)
