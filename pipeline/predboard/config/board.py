"""Define the flags of `predboard board`. It knows nothing of how they work."""

from dataclasses import dataclass
from pathlib import Path

from predboard.config.fields import Config
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class BoardConfig(Config):
    """Open TensorBoard with limits that show everything `predboard visualize` wrote."""

    logdir: AnyPath = Path("logs")
    """Folder that `predboard visualize` wrote."""

    port: int = 6006
    """Port on this machine."""

    host: str = "localhost"
    """Name or address to serve on; 0.0.0.0 for all of this machine's, so that others reach it."""

    open: bool = False
    """Also open the page in this machine's browser."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; expected 1 to 65535")
