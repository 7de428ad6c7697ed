"""`predict.py engine=ray`: chunks scored by Ray actors on this machine, or on the cluster at RAY_ADDRESS."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection, gethostname
from typing import Any

from src.errors import InputError, did_you_mean, first_line
from src.files import file_digest
from src.inference import batches
from src.inference.batches import Photo, Result, read_batch
from src.inference.predictor import Predictor
from src.parallel import MOST, cores
from src.preprocess import decoder
from src.process import Terminated

QUEUE = 2  # chunks that an actor holds
PATIENCE, SILENCE = 60, 600  # seconds: for actors to start; without a chunk until machines are counted
# Ray's own: enough until a lost machine counts as lost; a photo that kills its process ends the job
RETRIES = {"max_restarts": -1, "max_task_retries": 16}
LOCAL = {"object_store_memory": 128 * 2**20, "include_dashboard": False}  # a chunk's results take 0.1 MB


def check_engine(engine: str, shard: str | None) -> None:
    """Refuse an engine that does not exist, lacks its package or does not go with `shard=`."""
    if engine not in ("local", "ray"):
        raise InputError(f"engine={engine}: {did_you_mean(engine, ('local', 'ray'))}")
    if engine == "ray" and shard:
        raise InputError(f"shard={shard}: engine=ray shares out the photos itself: leave out one of the two")
    if engine == "ray" and not find_spec("ray"):
        raise InputError('engine=ray needs the extra `ray`: python -m pip install -e ".[ray]"')
    if engine == "ray" and " " in sys.executable:
        raise InputError(
            f"engine=ray: Ray cannot start {sys.executable}, whose path has a space in it: move it"
        )


class Worker:
    """An actor: a `Predictor` in a process of Ray's, loaded for its first chunk, also after a restart."""

    def __init__(self, model: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]):
        self.model, self.manifest, self.options = model, manifest, options
        self.predictor, self.machine = None, gethostname()

    def load(self) -> Predictor:
        """Return the predictor; refuse a machine that does not compute as the manifest says."""
        if self.model.suffix.lower() != ".onnx":
            from src.models.base import set_full_precision

            set_full_precision()
        loaded = Predictor.load(self.model, **self.options)
        found = {"checkpoint": file_digest(self.model), "decoder": decoder()}
        for name, value in (found | {"arithmetic": loaded.backend.arithmetic}).items():
            if value != (wanted := self.manifest[name]):
                raise InputError(f"{name} is {value} on {self.machine}, {wanted} where the job was begun")
        return loaded

    def scored(self, first: int, photos: Sequence[Photo]) -> tuple[int, str, list[Result]]:
        """Return the place of a chunk, the machine's name and the results."""
        self.predictor = self.predictor or self.load()
        found = (result for batch in self.predictor.results(photos) for result in batch)
        return first, self.machine, [replace(result, index=first + result.index) for result in found]


class RayResults:
    """Results of photos in order, chunk by chunk, as `Predictor.results` gives them batch by batch.

    Args:
        predictor: of this process, which says how this machine reads a photo.
        options: for `Predictor.load` in the actors, one per GPU or per `num_workers` cores of a machine.
    """

    def __init__(self, model: Path, predictor: Predictor, manifest: Mapping[str, Any], **options: Any):
        self.preprocess, self.ray = predictor.preprocess, _joined(os.environ.get("RAY_ADDRESS", "local"))
        have, self.machines = self.ray.cluster_resources(), self._machines()
        gpus = int(have.get("GPU", 0)) if options["device"] in ("auto", "cuda") else 0
        if options["num_workers"] is None:
            options["num_workers"] = min(MOST, int(have.get("CPU", 0) // (gpus or self.machines)))
        cpus = max(1, options["num_workers"])
        wanted = min(
            gpus or int(have.get("CPU", 0) // cpus), -(-manifest["number of photos"] // batches.CHUNK)
        )
        made = self.ray.remote(num_cpus=cpus, num_gpus=min(gpus, 1), **RETRIES)(Worker)
        actors = [made.remote(model.absolute(), manifest, options) for _ in range(max(1, wanted))]
        begun = {actor.__ray_ready__.remote(): actor for actor in actors}
        with _in_words(self.ray):
            ready, _ = self.ray.wait([*begun], num_returns=len(begun), timeout=PATIENCE)
        if not ready:
            raise InputError(f"engine=ray: no actor with {cpus} cores in {PATIENCE} s: see `ray status`")
        self.pool = self.ray.util.ActorPool([begun[actor] for actor in ready] * QUEUE)

    def __call__(self, photos: Sequence[Photo]) -> Iterator[list[Result]]:
        """Yield the results of each chunk; refuse those of a machine that sees other photos than this one."""
        size, done, due = batches.CHUNK, {}, 0

        def begin(actor: Any, first: int) -> Any:
            part = photos[first : first + size]
            return actor.scored.remote(first, [replace(photo, root=photo.root.absolute()) for photo in part])

        with _in_words(self.ray):
            for first in range(0, len(photos), size):
                self.pool.submit(begin, first)
            while self.pool.has_next():
                first, machine, results = self._next()
                for photo, error in ((photos[found.index], found.error) for found in results if found.error):
                    here = read_batch([photo], 1, self.preprocess, frozenset(), 0).photos[0].error
                    if error != here:
                        cure = f"{here or 'readable'} here: all machines need the photos under one path"
                        raise InputError(f"engine=ray: {photo.file}: {error} on {machine}, {cure}")
                done[first] = results
                while due in done:
                    yield done.pop(due)
                    due += size

    def _next(self) -> tuple[int, str, list[Result]]:
        """Return a chunk that is done; refuse to wait for one of a machine that is lost."""
        while True:
            try:
                return self.pool.get_next_unordered(SILENCE)
            except TimeoutError:
                if (left := self._machines()) < self.machines:
                    lost = f"{left} of {self.machines} machines are left"
                    cure = "the same command with resume=true goes on with them"
                    raise InputError(f"engine=ray: {lost}: {cure}") from None

    def _machines(self) -> int:
        return sum(node["Alive"] for node in self.ray.nodes())


def _joined(address: str) -> Any:
    """Return the module `ray`, connected to a cluster, or for `local` to one that it starts here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.util

    ours, (host, _, port) = signal.getsignal(signal.SIGTERM), address.removeprefix("ray://").rpartition(":")
    limits = {"num_cpus": cores(), **LOCAL} if address == "local" else {}
    source = {"py_modules": [str(Path(__file__).parents[1])]}  # the actors import this `src`
    try:
        if port.isdecimal():
            create_connection((host, int(port)), 10).close()  # Ray would try for twenty minutes
        ray.init(address, runtime_env=source, logging_level="ERROR", ignore_reinit_error=True, **limits)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"engine=ray: RAY_ADDRESS={address}: {first_line(error)}") from error
    if signal.getsignal(signal.SIGTERM) is not ours:
        signal.signal(signal.SIGTERM, ours)  # Ray's would end this process with another exit code
    return ray


@contextmanager
def _in_words(ray: Any) -> Iterator[None]:
    """Turn what Ray raises into the errors of a plain call."""
    try:
        yield
    except KeyboardInterrupt:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:  # it was `Terminated`, which Ray forgets
            raise Terminated from None
        raise
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(f"engine=ray: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        cure = "the same command with resume=true goes on"
        raise InputError(f"engine=ray: {first_line(error)}: {cure}") from error
