"""Define the configuration of each command: frozen dataclasses, checked when they are built.

The command line is made from them: a field is a flag, its docstring the flag's help text, and the groups of
`InferConfig` are the headings of `predboard infer --help`. A configuration knows nothing of how its command works.
"""

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from predboard.config.amendments import AmendConfig, GroupedAmendConfig
    from predboard.config.board import BoardConfig
    from predboard.config.checks import (
        POSITIONAL,
        Channels,
        EmptyCell,
        Engine,
        Exif,
        ImportedKind,
        Interpolation,
        LabelTask,
        Precision,
        ScoreKind,
        SideLength,
    )
    from predboard.config.combine import CombineConfig
    from predboard.config.compare import CompareConfig
    from predboard.config.gate import GateConfig
    from predboard.config.imports import ImportConfig
    from predboard.config.infer import (
        DataConfig,
        DeviceConfig,
        FailureConfig,
        InferConfig,
        ModelConfig,
        OutputConfig,
        PreprocessingConfig,
        SpeedConfig,
    )
    from predboard.config.inspect import InspectConfig
    from predboard.config.merge import MergeConfig
    from predboard.config.metrics import MetricsConfig
    from predboard.config.rows import QueryConfig, RowsConfig
    from predboard.config.take import TakeConfig
    from predboard.config.task import TaskConfig
    from predboard.config.visualize import VisualizeConfig

__all__ = [
    "POSITIONAL",
    "AmendConfig",
    "BoardConfig",
    "Channels",
    "CombineConfig",
    "CompareConfig",
    "DataConfig",
    "DeviceConfig",
    "EmptyCell",
    "Engine",
    "Exif",
    "FailureConfig",
    "GateConfig",
    "GroupedAmendConfig",
    "ImportConfig",
    "ImportedKind",
    "InferConfig",
    "InspectConfig",
    "Interpolation",
    "LabelTask",
    "MergeConfig",
    "MetricsConfig",
    "ModelConfig",
    "OutputConfig",
    "Precision",
    "PreprocessingConfig",
    "QueryConfig",
    "RowsConfig",
    "ScoreKind",
    "SideLength",
    "SpeedConfig",
    "TakeConfig",
    "TaskConfig",
    "VisualizeConfig",
]

_MODULES = {
    "POSITIONAL": "checks",
    "AmendConfig": "amendments",
    "BoardConfig": "board",
    "Channels": "checks",
    "CombineConfig": "combine",
    "CompareConfig": "compare",
    "DataConfig": "infer",
    "DeviceConfig": "infer",
    "EmptyCell": "checks",
    "Engine": "checks",
    "Exif": "checks",
    "FailureConfig": "infer",
    "GateConfig": "gate",
    "GroupedAmendConfig": "amendments",
    "ImportConfig": "imports",
    "ImportedKind": "checks",
    "InferConfig": "infer",
    "InspectConfig": "inspect",
    "Interpolation": "checks",
    "LabelTask": "checks",
    "MergeConfig": "merge",
    "MetricsConfig": "metrics",
    "ModelConfig": "infer",
    "OutputConfig": "infer",
    "Precision": "checks",
    "PreprocessingConfig": "infer",
    "QueryConfig": "rows",
    "RowsConfig": "rows",
    "ScoreKind": "checks",
    "SideLength": "checks",
    "SpeedConfig": "infer",
    "TakeConfig": "take",
    "TaskConfig": "task",
    "VisualizeConfig": "visualize",
}


def __getattr__(name: str) -> object:
    """Import a configuration when it is first used: a command needs its own, and those of all take 20 ms."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
