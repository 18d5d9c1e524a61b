"""The demo's model: a small CNN for grey pictures of 28×28. Knows nothing of data or of how it is trained."""

import torch
from torch import nn


def build() -> torch.nn.Module:
    """A new network: [rows, 1, 28, 28] -> logits [rows, 10]; 57,722 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
