"""A study of Optuna as a sweep, where Hydra looks for plugins: packages of this name, on any path.

Scanned at the start of each script, so neither Optuna nor torch is imported here. The plugin
`hydra-optuna-sweeper` asks for Optuna 2, and a score that is no number ends its sweep.
"""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from src.errors import first_line, leave

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class StudySweeper(Sweeper):
    """Runs the trials of a study of Optuna as the jobs of a sweep, each with its parameters as overrides.

    The study is kept in the folder of the sweep, and the same command goes on with it. A trial depends on the
    seed, its number and the trials before it alone.

    Args:
        trials: how many there are in the end, those that failed included.
        at_once: trials that a launcher gets together.
        params: the search space in the words of Hydra: `choice(a,b)`, `range(1,9)`,
            `tag(log,interval(1e-4,1e-1))`; the command line may change it.
    """

    def __init__(self, trials: int, at_once: int = 1, params: dict[str, str] | None = None):
        self.trials, self.at_once, self.params = trials, at_once, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are left; raise the error of the first one that failed."""
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = {one.get_key_element(): one for one in parser.parse_overrides(given)}
        self.fixed = [str(one.input_line) for one in parsed.values() if not one.is_sweep_override()]
        study = self._study({key: one for key, one in parsed.items() if one.is_sweep_override()})
        failed = []
        while numbers := self._next(study):
            jobs = [self._job(study.trials[number].params) for number in numbers]
            results = self.launcher.launch(jobs, initial_job_idx=numbers[0])
            for number, result in zip(numbers, results, strict=True):
                failed += [] if _tell(study, number, result) else [result]
        if any(trial.value is not None for trial in study.trials):
            log.info("Best of %d trials: %s", len(study.trials), study.best_params)
        for result in failed:
            _ = result.return_value  # raises its error

    def _study(self, space: dict[str, Override]) -> "optuna.Study":
        """Return the study of the folder, if it is of the same command."""
        try:
            import optuna

            from src.callbacks.pruning import open_study
        except ModuleNotFoundError as error:
            leave(2, f'sweep=optuna needs a package that is missing ({error}): pip install -e ".[optuna]"')
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.space = {key: distribution(override) for key, override in space.items()}
        except ValueError as error:
            leave(2, f"the search space: {first_line(error)}")
        start = {key: (getattr(d, "choices", None) or [d.low])[0] for key, d in self.space.items()}
        self.validate_batch_is_legal([self._job(start)])
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        study = open_study(folder)
        asked = {"fixed": self.fixed, "space": {key: repr(d) for key, d in self.space.items()}}
        if study.user_attrs.get("asked", asked) != asked:
            leave(2, f"{folder} holds a study of another command: name another folder with hydra.sweep.dir=")
        study.set_user_attr("asked", asked)
        return study

    def _job(self, params: dict[str, Any]) -> list[str]:
        """Return the overrides of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items())]

    def _next(self, study: "optuna.Study") -> list[int]:
        """Return the numbers of the next trials: of one that was interrupted, else of new ones."""
        import optuna

        trials = study.trials
        if left := [trial.number for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]:
            return left[:1]
        for number in range(len(trials), min(self.trials, len(trials) + self.at_once)):
            seed = (self.config.seed + number) % 2**32  # not one stream: a study that goes on would repeat it
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=self.at_once > 1)
            study.ask(self.space)
        return list(range(len(trials), len(study.trials)))


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """Return the values that an override names, as Optuna has them."""
    from optuna import distributions as of

    value = override.value()
    if isinstance(value, IntervalSweep):
        kind = of.IntDistribution if isinstance(value.start, int) else of.FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep):
        values = list(value.range())
        kind = of.IntDistribution if isinstance(values[0], int) else of.FloatDistribution
        return kind(values[0], values[-1], step=value.step)
    return of.CategoricalDistribution(list(override.sweep_string_iterator()))


def _tell(study: "optuna.Study", number: int, result: JobReturn) -> bool:
    """Tell the study how a trial has ended; return whether it has a score."""
    from optuna.trial import TrialState

    score = result._return_value if result.status == JobStatus.COMPLETED else math.nan
    if not math.isfinite(score):
        study.tell(number, state=TrialState.FAIL)
    elif study.trials[number].user_attrs.get("pruned"):
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, score)
    return result.status == JobStatus.COMPLETED
