"""Calls that predict at once, and keep nothing."""

import asyncio
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from src.images import UnreadableImage
from src.inference.predictor import Prediction
from src.serving.bodies import Batch, BatchItem, Predicted
from src.serving.engine import ServedModel
from src.serving.photos import digest_of
from src.serving.pictures import heat_map
from src.serving.refusals import Refused, problems

router = APIRouter()
Photos = File(description="photos, or ZIP archives of some")
Photo = File(description="a JPEG, PNG, WebP, BMP or TIFF file")
Read = Callable[[int], bytes]  # some bytes of a file


def flat(probabilities: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the probability of each label, of all kinds."""
    return {name: p for of in probabilities.values() for name, p in of.items()}


async def _predicted(request: Request, file: UploadFile) -> tuple[Prediction, Predicted]:
    service, content = request.app.state.service, await file.read()
    begun, model = time.perf_counter(), service.engine.model
    found, sha256 = await service.engine.run(lambda: (model.predict(content), digest_of(content)))
    service.figures.predicted(found.labels)
    seconds = round(time.perf_counter() - begun, 4)
    about = {"filename": file.filename, "bytes": len(content), "inference_seconds": seconds}
    request.state.record = about | model.record(found)
    return found, Predicted(prediction=found.text, sha256=sha256, **model.origin)


@router.post("/predict", response_model_exclude_none=True)
async def predict(
    request: Request,
    file: UploadFile = Photo,
    detail: bool = Query(False, description="with labels and probabilities"),
) -> Predicted:
    """Predict one photo."""
    begun = time.perf_counter()
    found, answer = await _predicted(request, file)
    if detail:
        scores = found.probabilities
        answer.raw = {"labels": found.labels, "probabilities": scores, "confidence": found.confidence}
        answer.confidence_scores, answer.look_at = flat(scores), found.look_at
        answer.request_id = request.state.request_id
        answer.response_time_sec = round(time.perf_counter() - begun, 4)
        answer.timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return answer


@router.post("/predict_defect_image", response_model_exclude_none=True)
async def predict_defect_image(request: Request, file: UploadFile = Photo) -> Predicted:
    """Predict one photo, with the probability of each label."""
    found, answer = await _predicted(request, file)
    answer.probabilities = flat(found.probabilities)
    return answer


def _entries(files: list[UploadFile], most: int) -> list[tuple[str, Read]]:
    found: list[tuple[str, Read]] = []
    for file in files:
        is_archive = file.file.read(4) == b"PK\x03\x04"
        file.file.seek(0)
        some = _archived(file) if is_archive else [(file.filename or "", file.file.read)]
        try:
            found += islice(some, most + 1)
        except Exception as error:  # zipfile raises several types on hostile bytes
            raise Refused(422, "the ZIP archive is broken", "broken_archive") from error
        if len(found) > most:
            raise Refused(413, f"more than {most} files", "too_many_files")
    return found


def _archived(file: UploadFile) -> Iterator[tuple[str, Read]]:
    archive = zipfile.ZipFile(file.file)
    for entry in archive.infolist():
        if not entry.is_dir():
            yield entry.filename, lambda most, entry=entry: archive.open(entry).read(most)


def _read_and_predicted(model: ServedModel, read: Read, most: int) -> tuple[Prediction, str]:
    try:
        content = read(most + 1)
    except Exception as error:  # zipfile again, and RuntimeError without a password
        raise UnreadableImage("cannot be unpacked: broken, encrypted or compressed unusually") from error
    if len(content) > most:
        raise UnreadableImage(f"{most:,} bytes at most")
    return model.predict(content), digest_of(content)


@router.post("/predict_batch", responses=problems(413))
async def predict_batch(request: Request, files: list[UploadFile] = Photos) -> Batch:
    """Predict many photos, or those of ZIP archives: a result or an error for each."""
    service = request.app.state.service
    settings, engine, model = service.settings, service.engine, service.engine.model
    entries = await run_in_threadpool(_entries, files, settings.max_files)
    places = asyncio.Semaphore(engine.threads)  # a batch holds no more: other requests get theirs in turn
    engine.refuse_if_full()  # from here on it waits for its turns
    request.state.record = {"results": (records := [])}

    async def item(name: str, read: Read) -> BatchItem:
        try:
            async with places:
                work = partial(_read_and_predicted, model, read, settings.max_bytes)
                found, sha256 = await engine.run(work, begun=True)
        except UnreadableImage as error:
            return BatchItem(filename=name, error=str(error))
        except TimeoutError:
            return BatchItem(filename=name, error="not ready in time")
        service.figures.predicted(found.labels)
        records.append({"filename": name} | model.record(found))
        values = {"prediction": found.text, "confidence": found.confidence, "labels": found.labels}
        values["look_at"] = found.look_at
        return BatchItem(filename=name, sha256=sha256, **values)

    async with asyncio.TaskGroup() as group:  # one that fails otherwise ends the others
        tasks = [group.create_task(item(*entry)) for entry in entries]
    return Batch(results=[task.result() for task in tasks], **model.origin)


@router.post(
    "/explain", response_class=Response, responses={200: {"content": {"image/png": {}}}} | problems(404, 409)
)
async def explain(
    request: Request,
    file: UploadFile = Photo,
    label: str | None = Form(None, description="null: the most probable one"),
) -> Response:
    """Return the photo with the area that speaks for a label, as a PNG."""
    service, content = request.app.state.service, await file.read()
    model = service.engine.model
    names = model.predictor.labels.names
    if label is not None and label not in names:
        raise Refused(404, f"unknown label; the model knows {', '.join(names[:20])}", "unknown_label")
    drawn = await service.engine.run(lambda: heat_map(model.predictor, content, label))
    if drawn is None:
        raise Refused(409, "this model has no map of its features", "no_heat_map")
    picture, about = drawn
    request.state.record = {"filename": file.filename, "bytes": len(content), "model_id": model.id, **about}
    headers = {"X-Model-ID": model.id, "X-Preprocessing": model.preprocessing}
    headers |= {"X-Heat-Map": "drawn" if about["area"] else "none"}  # nothing in the photo speaks for it
    return Response(picture, media_type="image/png", headers=headers)
