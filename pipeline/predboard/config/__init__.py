"""Define the configuration of each command: frozen dataclasses, checked when they are built.

The command line is made from them: a field is a flag, its docstring the flag's help text, and the groups of
`InferConfig` are the headings of `predboard infer --help`. A configuration knows nothing of how its command works.
"""

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
