"""Define the flags of `predboard inspect`. It knows nothing of how they work."""

from dataclasses import dataclass, field

from predboard.config.amendments import AmendConfig
from predboard.config.checks import POSITIONAL
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class InspectConfig(AmendConfig):
    """Describe a folder of predictions, and check that it is complete."""

    predictions: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder that `predboard infer` wrote."""

    json: bool = False
    """Print JSON."""
