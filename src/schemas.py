"""The root keys of each script's configuration, with their types."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class ThresholdsConfig:
    """Keys below `thresholds` of a training."""

    source: str | None = None
    calibration: str = "beta"
    objective: dict[str, Any] = field(default_factory=dict)
    labels: Any = None
    by_class: bool = False


@dataclass
class TrainConfig:
    """Root keys of `conf/train.yaml`; an unknown key or a value of another type is refused when composing."""

    task: str = "???"
    seed: int = 42
    resume: str | None = None
    output_dir: str = "???"
    name: str | None = None
    text: Any = None
    preprocess: Any = field(default_factory=dict)
    thresholds: ThresholdsConfig = field(default_factory=ThresholdsConfig)
    data: Any = None
    model: Any = None
    callbacks: Any = None
    logger: Any = None
    trainer: Any = None


@dataclass
class InferenceConfig:
    """Root keys of what scores photos or texts with a checkpoint."""

    ckpt: str | None = None
    root: str | None = None
    threshold: Any = None
    batch_size: int = 16
    num_workers: int | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "32"
    tta: bool = False
    output_dir: str = "???"


@dataclass
class PredictConfig(InferenceConfig):
    """Root keys of `conf/predict.yaml`."""

    images: str | None = None
    texts: str | None = None
    output: str | None = None
    resume: bool = False
    shard: str | None = None
    engine: str = "local"
    miss: float | None = 0.05
    probabilities: bool = False
    columns: Any = None
    spreadsheet_safe: bool = False
    compile: bool = False


@dataclass
class EvaluateConfig(InferenceConfig):
    """Root keys of `conf/evaluate.yaml`; the last three are those that `data` refers to."""

    output: Any = None  # a path, see `check_paths`
    resamples: int = 200
    explain: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    preprocess: Any = None
    seed: int = 42


@dataclass
class ExportConfig:
    """Root keys of `conf/export.yaml`."""

    ckpt: str | None = None
    formats: list[str] = field(default_factory=list)
    output: str | None = None
    root: str | None = None
    output_dir: str = "???"


@dataclass
class DemoConfig:
    """Root keys of `conf/make_demo_data.yaml`."""

    output: str = "data/demo"
    count: int = 600
    width: int = 640
    height: int = 480
    seed: int = 7
    missing: float = 0.0
    wrong: float = 0.0
    distance: float = 1.0
    output_dir: str = "???"


@dataclass
class ExploreConfig(TrainConfig):
    """Root keys of `conf/explore.yaml`: those of training, so that an experiment fits, and where to write."""

    output: Any = None  # a path, see `check_paths`


@dataclass
class PipelineConfig(TrainConfig):
    """Root keys of `conf/pipeline.yaml`: those of training, the photos to predict, and where to write."""

    images: Any = None  # a path, see `check_paths`
    output: Any = None  # a path, see `check_paths`


@dataclass
class AuditConfig(TrainConfig):
    """Root keys of `conf/audit.yaml`: those of training, and its own."""

    ckpt: Any = None  # a path, see `check_paths`
    folds: int = 5
    top: int = 60
    notes: Any = None  # a path, see `check_paths`
    apply: Any = None  # a path, see `check_paths`
    output: Any = None  # a path, see `check_paths`
    device: str = "auto"


@dataclass
class FindLrConfig(TrainConfig):
    """Root keys of `conf/find_lr.yaml`: those of training, and its own."""

    low: float = 1e-6
    high: float = 1.0
    steps: int = 100


@dataclass
class StudyConfig:
    """Keys of `hydra.sweeper` in a sweep that is a study of Optuna: see the plugin."""

    _target_: str = "hydra_plugins.corbel.StudySweeper"
    trials: int = 20
    at_once: int = 1
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class CompareConfig(TrainConfig):
    """Root keys of `conf/compare_backbones.yaml`: those of training, and its own."""

    backbones: list[str] = field(default_factory=list)
    rounds: int = 30


@dataclass
class ComparisonConfig:
    """Root keys of `conf/compare.yaml`."""

    runs: list[str] = field(default_factory=list)
    gate: Any = None
    output: Any = None  # a path, see `check_paths`
    output_dir: str = "???"


SCHEMAS = {
    "compare": ComparisonConfig,
    "compare_backbones": CompareConfig,
    "find_lr": FindLrConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "make_demo_data": DemoConfig,
    "explore": ExploreConfig,
    "audit": AuditConfig,
    "pipeline": PipelineConfig,
}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)
ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudyConfig)
