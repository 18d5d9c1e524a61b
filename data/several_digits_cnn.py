"""The multi-label demo's model: a small CNN for grey pictures of 64×64. Knows nothing of data or training."""

import torch
from torch import nn


def build() -> torch.nn.Module:
    """A new network: [rows, 1, 64, 64] -> logits [rows, 10], one for each digit that may be there."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
