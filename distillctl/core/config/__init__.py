"""The configuration of a run: what can be set (schema), what it is by default, and how it is loaded."""

from distillctl.core.config.loading import find_config, load_config, shipped_configs
from distillctl.core.config.messages import field_paths, field_to_set, nearest_field
from distillctl.core.config.objective import (
    TERM_NAMES,
    ContrastiveConfig,
    CriticalTokensConfig,
    FocalConfig,
    JsdConfig,
    ObjectiveConfig,
    SemanticConfig,
    TermConfig,
    WeightSchedule,
)
from distillctl.core.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    EncoderConfig,
    EvaluationConfig,
    LoggingConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from distillctl.core.config.yaml_text import dump_yaml, parse_yaml

__all__ = [
    "TERM_NAMES",
    "CheckpointConfig",
    "Config",
    "ContrastiveConfig",
    "CriticalTokensConfig",
    "DataConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "FocalConfig",
    "JsdConfig",
    "LoggingConfig",
    "ObjectiveConfig",
    "SemanticConfig",
    "StudentConfig",
    "TeacherConfig",
    "TermConfig",
    "TrainingConfig",
    "WeightSchedule",
    "dump_yaml",
    "field_paths",
    "field_to_set",
    "find_config",
    "load_config",
    "nearest_field",
    "parse_yaml",
    "shipped_configs",
]
