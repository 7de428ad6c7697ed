"""The call that predicts a text, with any finished run of texts."""

import logging
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from src.errors import InputError, UnreadableImage
from src.files import file_digest, read_json
from src.runs import BEST, TEXTS, finished_runs
from src.serving.bodies import PredictedText, TextToPredict
from src.serving.refusals import Refused, problems

log = logging.getLogger(__name__)
router = APIRouter()
KEPT = 4  # models of texts in memory


@lru_cache(KEPT)
def _loaded(checkpoint: Path, changed: int) -> tuple[Any, str]:
    """Return the predictor of a checkpoint that was last `changed` then, and its id."""
    from src.inference.predictor import Predictor

    return Predictor.load(checkpoint, device="cpu", batch_size=1, num_workers=0), file_digest(checkpoint)[:16]


def _chosen(outputs: Path, wanted: TextToPredict) -> tuple[Path, str]:
    """Return the run of texts that was asked for, the newest by default, and its kind of model."""
    names = {run: run.relative_to(outputs / TEXTS).as_posix() for run in finished_runs(outputs, (TEXTS,))}
    kinds = {run: (read_json(run / "metrics.json").get("run") or {}).get("model", "") for run in names}
    if not kinds:
        raise Refused(404, "no finished run of texts is here; train one with model=text_tfidf", "no_text_run")
    runs = [run for run in kinds if wanted.run_id in (None, names[run])]
    if not runs:
        there = ", ".join(list(names.values())[:20])
        raise Refused(404, f"no such run of texts; there are {there}", "unknown_run")
    found = [run for run in runs if wanted.model in (None, kinds[run])]
    if not found:
        there = ", ".join(sorted({kinds[run] for run in runs}))
        raise Refused(404, f"no such model; there are {there}", "unknown_model")
    return found[0], kinds[found[0]]


@router.post("/predict_text", responses=problems(404, 409))
async def predict_text(request: Request, wanted: TextToPredict) -> PredictedText:
    """Predict one text, with the newest run of texts or the one that is named."""
    service = request.app.state.service
    if find_spec("torch") is None:
        raise Refused(409, "models of texts need torch, which is not installed here", "no_torch")

    def work() -> tuple[dict, str, Path, str]:
        run, kind = _chosen(service.settings.runs, wanted)
        checkpoint = run / "checkpoints" / BEST
        predictor, digest = _loaded(checkpoint, checkpoint.stat().st_mtime_ns)
        return predictor.predict(wanted.text), digest, run, kind

    try:
        found, digest, run, kind = await service.engine.run(work)
    except UnreadableImage as error:
        raise Refused(422, "the text is empty", "empty_text") from error
    except InputError as error:
        log.error("%s", error)
        raise Refused(409, "this run cannot be loaded; the log of the service says why") from error
    request.state.record = {"model_id": digest, "characters": len(wanted.text), "prediction": found["label"]}
    return PredictedText(
        **found, run_id=run.relative_to(service.settings.runs / TEXTS).as_posix(), model=kind, model_id=digest
    )
