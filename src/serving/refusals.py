"""Errors as problem+json (RFC 9457): what each exception means to a client, and how OpenAPI says so."""

import logging
from http import HTTPStatus
from sqlite3 import OperationalError
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from src.images import UnreadableImage
from src.serving.engine import Busy
from src.serving.storage import StorageAway

log = logging.getLogger(__name__)
DISK = (8, 10, 13, 14)  # SQLite's codes: read-only, input or output, full, cannot be opened
CODES = {401: "no_key", 413: "too_large", 422: "invalid"}  # others by the name of the status


class Refused(Exception):
    """An answer with an error: status, sentence for the client, code, further headers."""

    def __init__(self, status: int, detail: str, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.headers = status, headers
        self.code = code or CODES.get(status) or HTTPStatus(status).name.lower()


class Problem(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of OpenAPI for answers with an error."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    entry = {"description": "an error, as RFC 9457 has it", "content": content}
    return dict.fromkeys(statuses, entry)


async def answer_to(request: Request, error: Exception) -> Response:
    """Return the answer to an exception; what is not the client's doing is logged."""
    refused = _refused(request, error)
    if refused.status >= 500 and not isinstance(error, Refused | Busy | TimeoutError):
        log.error("request %s", request.state.request_id, exc_info=error)
    body = Problem(
        title=refused.code.replace("_", " "),
        status=refused.status,
        detail=str(refused).encode(errors="replace").decode(),  # half a surrogate pair
        code=refused.code,
        request_id=request.state.request_id,
    )
    media_type = "application/problem+json"
    return JSONResponse(body.model_dump(), refused.status, refused.headers, media_type=media_type)


def _refused(request: Request, error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case Busy():
            return Refused(503, "the queue is full", "busy", {"Retry-After": str(error.seconds)})
        case TimeoutError():  # an OSError as well
            return Refused(504, "the photo was not ready in time", "timeout")
        case UnreadableImage() if str(error) == "no such file":
            return Refused(410, "the file of this photo is gone from the disk: send it again", "file_gone")
        case UnreadableImage():
            return Refused(_unreadable_status(str(error)), str(error), "unreadable_photo")
        case SQLAlchemyError(orig=OperationalError(sqlite_errorcode=code)) if code & 0xFF in DISK:
            return Refused(507, "the disk takes nothing more, or is gone", "no_space")
        case StorageAway():
            return Refused(503, "the storage of photos gives no answer", "no_storage", {"Retry-After": "5"})
        case SQLAlchemyError():
            return Refused(503, "the database gives no answer", "no_database", {"Retry-After": "5"})
        case OSError():
            return Refused(507, f"the disk takes nothing more ({error.strerror})", "no_space")
        case RequestValidationError():
            first = error.errors()[0]
            return Refused(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        case HTTPException():
            headers = dict(error.headers or {})
            if error.status_code == 405:  # the router names the methods of one of the path's calls
                calls = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", ""))
                headers |= {"Allow": ", ".join(sorted(map(str.upper, calls)))} if calls else {}
            return Refused(error.status_code, str(error.detail), headers=headers)
    return Refused(500, "an error of the service; its log has this request id", "internal")


def _unreadable_status(reason: str) -> int:
    """Return 413 for a photo beyond a limit, 415 for another type of file, 422 for a broken photo."""
    if "exceed the limit" in reason:
        return 413
    return 415 if any(words in reason for words in ("none of", "not an image", "install the extra")) else 422
