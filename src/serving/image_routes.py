"""Calls on stored photos: upload, jobs, lists, reviews, export."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Body, File, Header, Path, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from src.serving.access import Refused
from src.serving.bodies import (
    Decision,
    Image,
    Images,
    OneImage,
    Review,
    Task,
    TaskState,
    TaskTaken,
    files,
    problems,
)
from src.serving.photos import (
    TYPES,
    check_photo,
    read_stored,
    read_thumbnail,
    remove_photo,
    store_photo,
    used_bytes,
)
from src.serving.view import drawn_view

router = APIRouter(prefix="/api")
ImageId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Photo = File(description="a JPEG, PNG, WebP, BMP or TIFF file")
PAGE = 1000  # photos of an export that are read at once


def as_image(row: Row) -> Image:
    """Return a photo's row as the API shows it."""
    scores = row.probabilities and {name: p for of in row.probabilities.values() for name, p in of.items()}
    review = row.decision and Review(
        decision=row.decision, labels=row.review_labels, comment=row.comment, reviewer=row.reviewer,
        at=row.reviewed_at,
    )  # fmt: skip
    return Image(
        **{name: getattr(row, name) for name in Image.model_fields if name not in ("predictions", "review")},
        predictions=scores and dict(sorted(scores.items(), key=lambda item: -item[1])),
        review=review or None,
    )


def _found(request: Request, image_id: int) -> Row:
    """Return a photo's row, or refuse an id that is not there."""
    row = request.app.state.service.store.image(image_id)
    if row is None:
        raise Refused(404, f"no photo has the id {image_id}")
    return row


@router.post("/upload", status_code=201, responses={200: {"model": Image}} | problems(507))
async def upload(
    request: Request,
    response: Response,
    file: UploadFile = Photo,
    filename: str | None = Query(None, max_length=1000),
    ground_truth: str | None = Query(None, max_length=1000),
) -> Image:
    """Keep a photo, without its metadata; the same photo twice is one (200)."""
    service, content = request.app.state.service, await file.read()
    photo = await service.engine.run(lambda: check_photo(content))

    def keep() -> tuple[Row, bool]:
        quota = service.settings.quota_bytes
        if quota is not None and used_bytes(service.settings.photos) + len(photo.content) > quota:
            raise Refused(507, f"all photos together may take {quota:,} bytes", "quota")
        store_photo(service.settings.folder, photo)  # the file first: a row never lacks it
        row, is_new = service.store.add_image(photo, filename or file.filename or "", ground_truth)
        return service.store.image(row.id), is_new

    row, is_new = await run_in_threadpool(keep)
    response.status_code = 201 if is_new else 200
    return as_image(row)


@router.post("/predict", responses=problems(404, 409))
def queue_prediction(
    request: Request,
    id: int = Query(ge=1, le=2**31 - 1),
    device: Literal["cpu", "gpu", "mps"] = Query("cpu", description="taken where it is there, else the CPU"),
    idempotency_key: str | None = Header(None, min_length=1, max_length=200),
) -> TaskTaken:
    """Queue the prediction of a stored photo."""
    service = request.app.state.service
    key = idempotency_key and f"{request.state.client}:{idempotency_key}"[:256]
    try:
        task_id = service.store.add_job(id, key)
    except KeyError as error:
        raise Refused(409, "this Idempotency-Key came with another photo", "key_reused") from error
    if task_id is None:
        raise Refused(404, f"no photo has the id {id}")
    service.workers.wake()
    return TaskTaken(data=Task(task_id=task_id, status="PENDING"))


@router.get("/tasks/{task_id}", responses=problems(404))
def task(request: Request, task_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> TaskState:
    """The state of a job and its result."""
    row = request.app.state.service.store.job(task_id)
    if row is None:
        raise Refused(404, "no such task")
    result = None
    if row.status == "SUCCESS":
        names = ("prediction", "labels", "probabilities", "confidence", "model_id", "preprocessing")
        result = {"image_id": row.image_id} | {name: getattr(row, name) for name in names}
    return TaskState(task_id=row.id, task_status=row.status, task_result=result, error=row.error)


@router.get("/images")
def images(
    request: Request,
    offset: int = Query(0, ge=0, le=2**31 - 1),
    limit: int = Query(50, ge=1, le=200),
    label: str | None = Query(None, max_length=200),
    reviewed: bool | None = None,
    text: str | None = Query(None, max_length=200, description="a part of the file name"),
    order: Literal["newest", "unsure"] = "newest",
) -> Images:
    """A page of the photos, with predictions and reviews and without bytes."""
    store = request.app.state.service.store
    total, rows = store.images(offset, limit, label, reviewed, text, order)
    return Images(data=list(map(as_image, rows)), total=total, offset=offset, limit=limit)


@router.get("/images/{image_id}", responses=problems(404))
def image(request: Request, image_id: ImageId) -> OneImage:
    """One photo, its predictions from high to low."""
    return OneImage(data=as_image(_found(request, image_id)))


@router.delete("/images/{image_id}", responses=problems(404))
def delete_image(request: Request, image_id: ImageId) -> dict[str, int]:
    """Delete a photo with its predictions and reviews."""
    service = request.app.state.service
    sha256 = service.store.delete_image(image_id)
    if sha256 is None:
        raise Refused(404, f"no photo has the id {image_id}")
    remove_photo(service.settings.folder, sha256)
    return {"id": image_id}


@router.get(
    "/images/{image_id}/file", response_class=Response, responses=files(*TYPES.values()) | problems(404)
)
def image_file(request: Request, image_id: ImageId, thumbnail: bool = False) -> Response:
    """The photo as it is kept, or a small JPEG of it."""
    row, folder = _found(request, image_id), request.app.state.service.settings.folder
    headers = {"Cache-Control": "private, max-age=86400, immutable", "Content-Disposition": "inline"}
    if thumbnail:
        return Response(read_thumbnail(folder, row.sha256), media_type="image/jpeg", headers=headers)
    content = read_stored(folder, row.sha256, row.format)
    return Response(content, media_type=TYPES[row.format], headers=headers)


@router.get(
    "/images/{image_id}/view",
    response_class=Response,
    responses=files("image/jpeg") | {204: {"description": "not predicted yet"}} | problems(404),
)
def view(request: Request, image_id: ImageId) -> Response:
    """The photo with its label and the ten highest probabilities, as a JPEG; 204 before its prediction."""
    row = _found(request, image_id)
    if row.prediction is None:
        return Response(status_code=204)
    content = read_stored(request.app.state.service.settings.folder, row.sha256, row.format)
    return Response(drawn_view(content, as_image(row)), media_type="image/jpeg")


@router.patch("/images/{image_id}", responses=problems(404, 409))
def review(request: Request, image_id: ImageId, decided: Annotated[Decision, Body()]) -> OneImage:
    """Keep an inspector's decision; earlier ones stay in the database."""
    service, row = request.app.state.service, _found(request, image_id)
    space = service.engine.model.predictor.labels
    if decided.decision == "confirm":
        if row.labels is None:
            raise Refused(409, "there is no prediction to confirm", "no_prediction")
        labels = row.labels
    else:
        if decided.labels is None:
            raise Refused(422, "a correction needs labels")
        for kind, names in decided.labels.items():
            known = space.kinds.get(kind, ())
            if unknown := [name for name in names if name not in known]:
                raise Refused(
                    422,
                    f"unknown {kind} '{unknown[0][:100]}'; known: {', '.join(known[:20])}",
                    "unknown_label",
                )
        one_each = service.engine.model.predictor.task != "multilabel"
        if one_each and any(len(names) > 1 for names in decided.labels.values()):
            raise Refused(422, "one label of each kind")
        labels = {kind: list(dict.fromkeys(decided.labels.get(kind, []))) for kind in space.kinds}
    kept = service.store.add_review(
        image_id, decision=f"{decided.decision}ed", labels=labels, comment=decided.comment,
        reviewer=decided.reviewer,
    )  # fmt: skip
    if not kept:
        raise Refused(404, f"no photo has the id {image_id}")
    return OneImage(data=as_image(_found(request, image_id)))


@router.get("/export.csv", response_class=StreamingResponse, responses=files("text/csv"))
def export(
    request: Request, reviewed: bool | None = Query(None, description="true: only decided photos")
) -> Response:
    """All photos with their labels, as `data=table` reads them.

    The labels are the review's, else the prediction's. Train with `data.csv=export.csv` and as `data.images=`
    the folder `photos` of the service.
    """
    store, kinds = (
        request.app.state.service.store,
        request.app.state.service.engine.model.predictor.labels.kinds,
    )

    def lines() -> Iterator[str]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["ID", *kinds, "original_name", "decision", "reviewer", "comment", "prediction", "model"]
        )
        offset = 0
        while True:
            _, rows = store.images(offset, PAGE, reviewed=reviewed)
            for row in rows:
                labels = row.review_labels or row.labels or {}
                cells = [";".join(labels.get(kind, ())) for kind in kinds]
                said = [row.decision or "", row.reviewer or "", row.comment or "", row.prediction or ""]
                writer.writerow([row.sha256, *cells, row.filename, *said, row.model_id or ""])
            yield text.getvalue()
            text.seek(0)
            text.truncate()
            if len(rows) < PAGE:
                return
            offset += PAGE

    headers = {"Content-Disposition": 'attachment; filename="export.csv"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
