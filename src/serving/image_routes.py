"""Calls on stored photos: upload, jobs, lists, reviews, export."""

import csv
import hashlib
import io
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from src.decisions.predictions import kept_from_running
from src.serving.bodies import (
    Decision,
    ImageBody,
    Images,
    Labels,
    Review,
    TaskState,
    TaskTaken,
    Text,
    Wanted,
)
from src.serving.engine import ServedModel
from src.serving.photos import TYPES, check_photo, photo_name, remove_photo, store_photo, thumbnail_name
from src.serving.pictures import drawn_view
from src.serving.prediction_routes import Photo, flat
from src.serving.refusals import Refused, problems
from src.serving.tables import PredictionRow, ReviewRow

router = APIRouter(prefix="/api")
NOTHING = "None"  # in an export, of `data.healthy`: somebody looked, and nothing is wrong
ImageId = Annotated[int, Path(ge=1, le=2**31 - 1)]


def _files(*types: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the file", "content": {name: {} for name in types}}}


def as_body(row: Row) -> ImageBody:
    """Return a photo's row as the API shows it."""
    scores = flat(row.probabilities) if row.probabilities else {}
    decided = {"labels": row.review_labels, "at": row.reviewed_at}
    review = Review(**{**row._mapping, **decided}) if row.decision else None
    predictions = dict(sorted(scores.items(), key=lambda item: -item[1])) or None
    return ImageBody(predictions=predictions, review=review, **row._mapping)


def _found(request: Request, image_id: int) -> Row:
    row = request.app.state.service.store.image(image_id)
    if row is None:
        raise Refused(404, f"no photo has the id {image_id}")
    return row


@router.post("/upload", status_code=201, responses={200: {"model": ImageBody}})
async def upload(
    request: Request,
    response: Response,
    file: UploadFile = Photo,
    filename: Annotated[Text | None, Query(max_length=1000)] = None,
    ground_truth: Annotated[Text | None, Query(max_length=1000)] = None,
) -> ImageBody:
    """Keep a photo, without its metadata; the same photo twice is one (200)."""
    service, content = request.app.state.service, await file.read()
    name = filename or file.filename or ""
    if "\0" in name:
        raise Refused(422, "a file name without NUL")
    bits = service.engine.model.predictor.preprocess.sample_bits
    photo = await service.engine.run(lambda: check_photo(content, bits))

    def keep() -> tuple[int, bool]:
        quota, folder = service.settings.quota_bytes, service.folder
        if quota is not None and service.store.used_bytes() + len(photo.content) > quota:
            raise Refused(507, f"all photos together may take {quota:,} bytes", "quota")
        is_written = store_photo(folder, photo)  # the file first: a row never lacks it
        try:
            kept = service.store.add_image(photo, name, ground_truth)
        except Exception:
            if is_written and service.settings.is_alone:  # else another process may have kept it meanwhile
                remove_photo(folder, photo.sha256, photo.format)
            raise
        store_photo(folder, photo)  # once more if it was deleted just before its row
        return kept

    image_id, is_new = await run_in_threadpool(keep)
    response.status_code = 201 if is_new else 200
    return as_body(await run_in_threadpool(_found, request, image_id))


@router.post("/predict", responses=problems(404, 409))
def queue_prediction(
    request: Request,
    id: int = Query(ge=1, le=2**31 - 1),
    device: Literal["cpu", "gpu", "mps"] = Query("cpu", description="taken for older clients: it is the CPU"),
    batch: bool = Query(False, description="one of many: photos that somebody waits for come first"),
    idempotency_key: str | None = Header(None, min_length=1, max_length=200),
) -> TaskTaken:
    """Queue the prediction of a stored photo."""
    service = request.app.state.service
    key = f"{request.state.client}:{idempotency_key}".encode() if idempotency_key else None
    try:
        task_id = service.store.add_job(id, key and hashlib.sha256(key).hexdigest(), int(batch))
    except KeyError as error:
        raise Refused(409, "this Idempotency-Key came with another photo", "key_reused") from error
    if task_id is None:
        raise Refused(404, f"no photo has the id {id}")
    service.workers.announce(task_id, int(batch))
    return TaskTaken(data={"task_id": task_id, "status": "PENDING"})


@router.get("/tasks/{task_id}", responses=problems(404))
def task(request: Request, task_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> TaskState:
    """The state of a job and its result."""
    row = request.app.state.service.store.job(task_id)
    if row is None:
        raise Refused(404, "no such task")
    said = (
        "image_id",
        "sha256",
        "prediction",
        "labels",
        "probabilities",
        "confidence",
        "look_at",
        "model_id",
    )
    result = {name: getattr(row, name) for name in (*said, "preprocessing")}
    result = result if row.status == "SUCCESS" else None
    return TaskState(task_id=row.id, task_status=row.status, task_result=result, error=row.error)


@router.get("/images")
def images(request: Request, wanted: Annotated[Wanted, Query()]) -> Images:
    """A page of the photos, with predictions and reviews and without bytes."""
    total, rows = request.app.state.service.store.images(wanted)
    return Images(data=list(map(as_body, rows)), total=total, offset=wanted.offset, limit=wanted.limit)


@router.get("/images/{image_id}", responses=problems(404))
def image(request: Request, image_id: ImageId) -> dict[Literal["data"], ImageBody]:
    """One photo, its predictions from high to low."""
    return {"data": as_body(_found(request, image_id))}


@router.delete("/images/{image_id}", responses=problems(404))
def delete_image(request: Request, image_id: ImageId) -> dict[str, int]:
    """Delete a photo with its predictions and reviews."""
    service = request.app.state.service
    if not service.store.delete_image(image_id, partial(remove_photo, service.folder)):
        raise Refused(404, f"no photo has the id {image_id}")
    return {"id": image_id}


@router.get(
    "/images/{image_id}/file", response_class=Response, responses=_files(*TYPES.values()) | problems(404, 410)
)
def image_file(request: Request, image_id: ImageId, thumbnail: bool = False) -> Response:
    """The photo as it is kept, or a small JPEG of it."""
    row, folder = _found(request, image_id), request.app.state.service.folder
    headers = {"Cache-Control": "private, max-age=86400, immutable", "Content-Disposition": "inline"}
    name = thumbnail_name(row.sha256) if thumbnail else photo_name(row.sha256, row.format)
    return Response(folder.read(name), media_type=TYPES["JPEG" if thumbnail else row.format], headers=headers)


@router.get(
    "/images/{image_id}/view",
    response_class=Response,
    responses=_files("image/jpeg") | {204: {"description": "not predicted yet"}} | problems(404, 410),
)
async def view(request: Request, image_id: ImageId) -> Response:
    """The photo with its label and the ten highest probabilities, as a JPEG; 204 before its prediction."""
    row = await run_in_threadpool(_found, request, image_id)
    if row.prediction is None:
        return Response(status_code=204)
    service = request.app.state.service
    name = photo_name(row.sha256, row.format)
    content = await service.engine.run(lambda: drawn_view(service.folder.read(name), as_body(row)))
    return Response(content, media_type="image/jpeg")


@router.patch("/images/{image_id}", responses=problems(404, 409))
def review(request: Request, image_id: ImageId, decided: Decision) -> dict[Literal["data"], ImageBody]:
    """Keep an inspector's decision; earlier ones stay in the database."""
    service, row = request.app.state.service, _found(request, image_id)
    if decided.decision == "correct":
        labels = _corrected(service.engine.model, decided.labels)
    elif row.labels is None:
        raise Refused(409, "there is no prediction to confirm", "no_prediction")
    elif decided.labels is not None and _pairs(decided.labels) != _pairs(row.labels):
        raise Refused(409, "these are not the labels of the latest prediction", "prediction_changed")
    else:
        labels = row.labels
    before = row.review_labels or {}  # kinds that the model does not know stay
    labels = {kind: names for kind, names in before.items() if kind not in labels} | labels
    values = {"labels": labels, "comment": decided.comment, "reviewer": decided.reviewer}
    values |= {"decision": f"{decided.decision}ed"}
    values |= {"prediction_id": row.prediction_id, "model_id": row.model_id}  # of the one that was seen
    if not service.store.add_review(image_id, **values):
        raise Refused(404, f"no photo has the id {image_id}")
    return {"data": as_body(_found(request, image_id))}


def _pairs(labels: Labels) -> set[tuple[str, str]]:
    return {(kind, name) for kind, names in labels.items() for name in names}


def _corrected(model: ServedModel, given: Labels | None) -> Labels:
    if given is None:
        raise Refused(422, "a correction needs labels")
    kinds = model.predictor.labels.kinds
    for kind, name in sorted(_pairs(given)):
        if name not in (known := kinds.get(kind, ())):
            why = f"unknown {kind[:100]} '{name[:100]}'; known: {', '.join(known[:20])}"
            raise Refused(422, why, "unknown_label")
    labels = {kind: list(dict.fromkeys(given.get(kind, []))) for kind in kinds}
    if model.predictor.task != "multilabel" and any(len(names) != 1 for names in labels.values()):
        raise Refused(422, f"one label of each kind: {', '.join(kinds)}")
    return labels


@router.get("/export.csv", response_class=StreamingResponse, responses=_files("text/csv"))
def export(
    request: Request, reviewed: bool | None = Query(None, description="true: only decided photos")
) -> Response:
    """All photos with their labels, as `data=table` reads them.

    The labels are the review's, else the prediction's. Train with `data.csv=export.csv` and as `data.images=`
    the folder `photos` of the service.
    """
    service = request.app.state.service
    predictor = service.engine.model.predictor
    kinds = predictor.labels.as_dict() | service.store.labels_in(ReviewRow, PredictionRow)
    nothing = NOTHING if predictor.task == "multilabel" else ""

    def lines() -> Iterator[str]:
        said = ("filename", "decision", "reviewer", "comment", "prediction", "model_id")
        yield _line(["ID", *kinds, "original_name", *said[1:-1], "model"])
        for row in service.store.all_images(reviewed):
            labels = row.review_labels or row.labels or {}
            cells = [";".join(labels[kind]) or nothing if kind in labels else "" for kind in kinds]
            yield _line([row.sha256, *cells, *(kept_from_running(getattr(row, name) or "") for name in said)])

    headers = {"Content-Disposition": 'attachment; filename="export.csv"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)


def _line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
