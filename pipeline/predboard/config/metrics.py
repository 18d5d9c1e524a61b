"""Define the flags of `predboard metrics`. It knows nothing of how they work."""

from dataclasses import dataclass

from predboard.config.fields import Config


@dataclass(frozen=True)
class MetricsConfig(Config):
    """List all metrics with their definitions."""

    markdown: bool = False
    """Print docs/metrics.md, with formulas, intervals and sources."""
