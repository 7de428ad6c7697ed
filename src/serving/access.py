"""Middleware of every request: id, keys, rate, room in the queue, headers, log, figures, errors."""

import hashlib
import hmac
import json
import logging
import math
import time
import uuid

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.images import UnreadableImage
from src.serving.engine import Busy, Engine
from src.serving.settings import Settings

log = logging.getLogger("corbel.serving")
OPEN = ("/health", "/ready", "/static/", "/login")  # without a key
WORK = {"/predict", "/predict_defect_image", "/predict_batch", "/explain"}  # run the model at once
QUIET = ("/health", "/ready", "/metrics", "/static", "/api/images/{image_id}/file")  # not in the log
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; frame-ancestors 'none'"
CODES = {400: "bad_request", 401: "no_key", 404: "not_found", 405: "method_not_allowed", 409: "conflict",
         413: "too_large", 415: "wrong_type", 422: "invalid", 429: "too_many_requests", 500: "internal",
         503: "busy", 504: "timeout", 507: "no_space"}  # fmt: skip


class Refused(Exception):
    """An answer with an error: status, sentence for the client, further headers."""

    def __init__(self, status: int, detail: str, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers
        self.code = code or CODES[status]


class Figures:
    """Prometheus figures of one service."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        names = ("method", "route", "status")
        self.requests = Counter("corbel_requests", "Requests", names, registry=self.registry)
        self.seconds = Histogram("corbel_request_seconds", "Latency", ("route",), registry=self.registry)
        self.labels = Counter("corbel_labels", "Labels predicted", ("kind", "label"), registry=self.registry)
        waiting = Gauge("corbel_queue", "Requests that wait or run", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)

    def predicted(self, labels: dict[str, list[str]]) -> None:
        """Count the labels of a prediction."""
        for kind, names in labels.items():
            for name in names:
                self.labels.labels(kind, name).inc()


class Buckets:
    """A token bucket per client: `rate` requests a minute, as many at once.

    Args:
        rate: requests a minute; None: no limit.
    """

    def __init__(self, rate: float | None):
        self.rate, self._found = rate, {}

    def seconds_to_wait(self, client: str) -> int:
        """Take a token; return 0, or the seconds until there is one."""
        if self.rate is None:
            return 0
        now = time.monotonic()
        if len(self._found) > 10_000:
            self._found = {c: b for c, b in self._found.items() if now - b[1] < 60}
        tokens, last = self._found.get(client, (self.rate, now))
        tokens = min(max(1.0, self.rate), tokens + (now - last) * self.rate / 60)
        self._found[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        return 0 if tokens >= 1 else math.ceil((1 - tokens) * 60 / self.rate)


def problem(
    request: Request, status: int, detail: str, code: str = "", headers: dict | None = None
) -> Response:
    """Return an error as problem+json (RFC 9457)."""
    code = code or CODES.get(status, "error")
    body = {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": getattr(request.state, "request_id", ""),
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def client_of(request: Request, settings: Settings) -> str:
    """Return a name of the client for its rate: its key's digest, or its address.

    Raises:
        Refused: without a key where the service has keys.
    """
    if not settings.api_keys:
        return request.client.host if request.client else ""
    given = request.headers.get("x-api-key") or request.cookies.get("corbel_key", "")
    bearer = request.headers.get("authorization", "")
    given = given or bearer.removeprefix("Bearer ").strip()
    digest = hashlib.sha256(given.encode()).hexdigest()
    known = [hmac.compare_digest(digest, key.removeprefix("sha256:").lower()) for key in settings.api_keys]
    if not any(known):
        headers = {"WWW-Authenticate": "Bearer"}
        raise Refused(401, "this service needs a key: header X-API-Key", headers=headers)
    return digest


class BodyLimit:
    """Refuses a body beyond a number of bytes while it comes in, also without a true Content-Length.

    Args:
        app: the application within.
        most: bytes, by path; the entry `""` is for all others.
    """

    def __init__(self, app: ASGIApp, most: dict[str, int]):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a limit on what it may read."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most, read = self.most.get(scope["path"], self.most[""]), 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, f"{most:,} bytes at most")
            return message

        return await self.app(scope, limited, send)


class Around:
    """Checks a request before its body is read, and completes, counts and logs its answer.

    Args:
        app: the application within.
        settings: of the service.
        engine: whose queue has to have room.
        figures: that count requests.
    """

    def __init__(self, app: ASGIApp, settings: Settings, engine: Engine, figures: Figures):
        self.app, self.settings, self.engine, self.figures = app, settings, engine, figures
        self.buckets = Buckets(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request, begun, status = Request(scope, receive), time.perf_counter(), 0
        request.state.request_id = uuid.uuid4().hex

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/html") and request.url.path != "/docs":
                    headers["Content-Security-Policy"] = PAGE_POLICY
                headers["X-Request-ID"] = request.state.request_id
            await send(message)

        try:
            self._check(request)
            await self.app(scope, receive, completed)
        except Exception as error:
            if status:  # the answer has begun
                raise
            await self._error(request, error)(scope, receive, completed)
        self._note(request, status, time.perf_counter() - begun)

    def _check(self, request: Request) -> None:
        """Refuse a request without a key, beyond its rate, or for which the queue has no room."""
        path = request.url.path
        page = path == "/" and "text/html" in request.headers.get("accept", "")
        if not page and not path.startswith(OPEN):
            request.state.client = client = client_of(request, self.settings)
            if wait := self.buckets.seconds_to_wait(client):
                raise Refused(429, "too many requests", headers={"Retry-After": str(wait)})
        if path in WORK:
            self.engine.refuse_if_full()

    @staticmethod
    def _error(request: Request, error: Exception) -> Response:
        """Return the answer to an exception that no handler took."""
        if isinstance(error, Refused):
            return problem(request, error.status, error.detail, error.code, error.headers)
        if isinstance(error, Busy):
            return _busy(request, error)
        log.error("request %s", request.state.request_id, exc_info=error)
        return problem(request, 500, "an error of the service; its log has this request id")

    def _note(self, request: Request, status: int, seconds: float) -> None:
        """Count a request, and log it."""
        route = getattr(request.scope.get("route"), "path", "unknown")
        self.figures.requests.labels(request.method, route, status).inc()
        self.figures.seconds.labels(route).observe(seconds)
        if route not in QUIET or status >= 400:
            record = {"request_id": request.state.request_id, "method": request.method}
            record |= {"path": request.url.path, "status": status, "seconds": round(seconds, 4)}
            record |= getattr(request.state, "record", {})
            log.info("%s", json.dumps(record, ensure_ascii=False))


def install(app: FastAPI, settings: Settings, engine: Engine, figures: Figures) -> None:
    """Put the middleware and the error handlers into the application."""
    most = {"": settings.max_bytes + 2**16, "/predict_batch": 10 * settings.max_bytes}
    app.add_middleware(BodyLimit, most=most)
    app.add_middleware(Around, settings=settings, engine=engine, figures=figures)
    _handle_errors(app, settings)


def _handle_errors(app: FastAPI, settings: Settings) -> None:
    """Answer every exception that a call may raise as problem+json."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return problem(request, error.status, error.detail, error.code, error.headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return _busy(request, error)

    @app.exception_handler(TimeoutError)
    async def timeout(request: Request, _: TimeoutError) -> Response:
        return problem(request, 504, f"not ready within {settings.timeout:g} s")

    @app.exception_handler(UnreadableImage)
    async def unreadable(request: Request, error: UnreadableImage) -> Response:
        return problem(request, unreadable_status(str(error)), str(error), "unreadable_photo")

    @app.exception_handler(SQLAlchemyError)
    async def database(request: Request, error: SQLAlchemyError) -> Response:
        log.error("database: %s", type(error).__name__, exc_info=error)
        headers = {"Retry-After": "5"}
        return problem(request, 503, "the database gives no answer", "no_database", headers)

    @app.exception_handler(OSError)
    async def disk(request: Request, error: OSError) -> Response:
        log.error("disk: %s", error)
        return problem(request, 507, "the disk takes nothing more", "no_space")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(request, 422, f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the router names the methods of one of the path's calls
            calls = app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", ""), {})
            headers["Allow"] = ", ".join(sorted(map(str.upper, calls))) or headers.get("Allow", "")
        return problem(request, error.status_code, str(error.detail), headers=headers)


def _busy(request: Request, busy: Busy) -> Response:
    headers = {"Retry-After": str(busy.seconds)}
    return problem(request, 503, "the queue is full", headers=headers)


def unreadable_status(reason: str) -> int:
    """Return 413 for a photo beyond a limit, 415 for another type of file, 422 for a broken photo."""
    if "exceed the limit" in reason:
        return 413
    return 415 if any(words in reason for words in ("none of", "not an image", "install the extra")) else 422
