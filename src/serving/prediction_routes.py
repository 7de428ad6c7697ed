"""Calls that predict at once, and keep nothing."""

import io
import time
import zipfile
from datetime import UTC, datetime

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from src.images import UnreadableImage
from src.inference.predictor import Prediction
from src.serving.access import Refused
from src.serving.bodies import Batch, BatchItem, Predicted, PredictedDefect, problems
from src.serving.engine import ServedModel
from src.serving.photos import digest_of

router = APIRouter()
Photos = File(description="photos, or ZIP archives of some")
Photo = File(description="a JPEG, PNG, WebP, BMP or TIFF file")


async def _predicted(request: Request, file: UploadFile) -> tuple[ServedModel, Prediction, bytes]:
    """Read an upload and predict it in a thread."""
    service, content = request.app.state.service, await file.read()
    begun = time.perf_counter()
    model, found = await service.engine.run(lambda: service.engine.predict(content))
    service.figures.predicted(found.labels)
    request.state.record = {  # S1's inference record: what was asked and answered, never the photo
        "filename": file.filename,
        "bytes": len(content),
        "prediction": found.text,
        "inference_seconds": round(time.perf_counter() - begun, 4),
    }
    return model, found, content


@router.post("/predict", response_model_exclude_none=True, responses=problems(504))
async def predict(
    request: Request,
    file: UploadFile = Photo,
    detail: bool = Query(False, description="with labels and probabilities"),
) -> Predicted:
    """Predict one photo."""
    begun = time.perf_counter()
    model, found, content = await _predicted(request, file)
    answer = Predicted(prediction=found.text, sha256=digest_of(content), **model.origin)
    if detail:
        scores = found.probabilities
        answer.raw = {"labels": found.labels, "probabilities": scores, "confidence": found.confidence}
        answer.confidence_scores = {name: p for of in scores.values() for name, p in of.items()}
        answer.request_id = request.state.request_id
        answer.response_time_sec = round(time.perf_counter() - begun, 4)
        answer.timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return answer


@router.post("/predict_defect_image")
async def predict_defect_image(request: Request, file: UploadFile = Photo) -> PredictedDefect:
    """Predict one photo, with the probability of each label."""
    model, found, content = await _predicted(request, file)
    scores = {name: p for of in found.probabilities.values() for name, p in of.items()}
    return PredictedDefect(
        prediction=found.text, probabilities=scores, sha256=digest_of(content), **model.origin
    )


def _from_zip(content: bytes, most: int, max_bytes: int) -> list[tuple[str, bytes | str]]:
    """Return the files of a ZIP archive, or the reason why one is not read.

    Raises:
        Refused: for a broken archive, or too many files.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > most:
                raise Refused(413, f"{len(entries)} files in the archive; {most} at most", "too_many_files")
            found: list[tuple[str, bytes | str]] = []
            total = 0
            for entry in entries:
                with archive.open(entry) as file:
                    data = file.read(max_bytes + 1)
                total += len(data)
                if total > 4 * max_bytes:
                    raise Refused(413, f"the archive unpacks to more than {4 * max_bytes:,} bytes")
                too_large = f"{max_bytes:,} bytes at most"
                found.append((entry.filename, data if len(data) <= max_bytes else too_large))
            return found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise Refused(422, "the ZIP archive is broken or encrypted", "broken_archive") from error


@router.post("/predict_batch", responses=problems(413))
async def predict_batch(request: Request, files: list[UploadFile] = Photos) -> Batch:
    """Predict many photos, or those of ZIP archives: a result or an error for each."""
    service = request.app.state.service
    settings, engine = service.settings, service.engine
    given: list[tuple[str, bytes | str]] = []
    for file in files:
        content = await file.read()
        if content.startswith(b"PK\x03\x04"):
            given += _from_zip(content, settings.max_files, settings.max_bytes)
        else:
            given.append((file.filename or "", content))
    if len(given) > settings.max_files:
        raise Refused(413, f"{len(given)} files; {settings.max_files} at most", "too_many_files")
    results, model = [], engine.model
    for name, content in given:
        if isinstance(content, str):
            results.append(BatchItem(filename=name, error=content))
            continue
        try:
            _, found = await engine.run(lambda content=content: engine.predict(content, model))
        except UnreadableImage as error:
            results.append(BatchItem(filename=name, error=str(error)))
            continue
        service.figures.predicted(found.labels)
        results.append(
            BatchItem(
                filename=name, prediction=found.text, confidence=found.confidence, labels=found.labels,
                sha256=digest_of(content),
            )
        )  # fmt: skip
    return Batch(results=results, **model.origin)


@router.post(
    "/explain", response_class=Response, responses={200: {"content": {"image/png": {}}}} | problems(404, 409)
)
async def explain(
    request: Request,
    file: UploadFile = Photo,
    label: str | None = Form(None, description="null: the most probable one"),
) -> Response:
    """Return the photo with the area that speaks for a label, as a PNG."""
    from src.serving.heat_map import heat_map

    service, content = request.app.state.service, await file.read()
    model = service.engine.model
    names = model.predictor.labels.names
    if label is not None and label not in names:
        raise Refused(404, f"unknown label; the model knows {', '.join(names[:20])}", "unknown_label")
    picture = await service.engine.run(lambda: heat_map(model.predictor, content, label))
    if picture is None:
        raise Refused(409, "this model has no map of its features", "no_heat_map")
    return Response(picture, media_type="image/png")
