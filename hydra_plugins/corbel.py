"""The plugins of Corbel, where Hydra looks for them: packages of this name, on any path."""

from src.training import sweep


class StudySweeper(sweep.StudySweeper):
    """The sweeper of `conf/sweep/optuna.yaml`."""
