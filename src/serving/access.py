"""The middleware of every request: id, key, rate, room in the queue, body limit, headers, log, figures."""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Callable

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import first_line
from src.serving.engine import Engine
from src.serving.refusals import Refused, answer_to
from src.serving.settings import Settings
from src.serving.store import Store

log = logging.getLogger("corbel.serving")
FREE = ("/health", "/ready", "/static/")  # whoever asks
OPEN = (*FREE, "/login")  # without a key
WORK = {"/predict", "/predict_defect_image", "/predict_batch", "/explain"}  # run the model at once
QUIET = ("/health", "/ready", "/metrics", "/static", "/api/images/{image_id}/file")  # not in the log
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # named in figures
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; frame-ancestors 'none'"

# a token bucket as in `Buckets`, with the time of Redis
TAKE = """
local rate, now = tonumber(ARGV[1]), redis.call('TIME')
now = now[1] + now[2] / 1e6
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1] or rate) + (now - (bucket[2] or now)) * rate / 60
tokens = math.min(math.max(1, rate), tokens)
local wait = tokens >= 1 and 0 or math.ceil((1 - tokens) * 60 / rate)
if tokens >= 1 then tokens = tokens - ARGV[2] end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 60 + math.ceil(60 / rate))
return wait
"""
PATIENCE = 30  # seconds that a body may stand still


class Figures:
    """Prometheus figures of one service."""

    def __init__(self, engine: Engine, store: Store):
        self.registry = CollectorRegistry()
        names = ("method", "route", "status")
        self.requests = Counter("corbel_requests", "Requests", names, registry=self.registry)
        self.seconds = Histogram("corbel_request_seconds", "Latency", ("route",), registry=self.registry)
        self.labels = Counter("corbel_labels", "Labels predicted", ("kind", "label"), registry=self.registry)
        waiting = Gauge("corbel_queue", "Requests that wait or run", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)
        jobs = Gauge("corbel_jobs_waiting", "Jobs that nobody has begun", registry=self.registry)
        jobs.set_function(lambda: _number(store.waiting))

    def predicted(self, labels: dict[str, list[str]]) -> None:
        """Count the labels of a prediction."""
        for kind, names in labels.items():
            for name in names:
                self.labels.labels(kind, name).inc()


def _number(count: Callable[[], int]) -> float:
    """Return a count of the database; not a number while that is away: the other figures stay."""
    try:
        return count()
    except SQLAlchemyError:
        return math.nan


class Buckets:
    """A token bucket per client: `rate` requests a minute, as many at once; None: no limit."""

    def __init__(self, rate: float | None):
        self.rate, self._found = rate, {}

    async def seconds_to_wait(self, client: str, take: int = 1) -> int:
        """Take a token, or only look; return 0, or the seconds until there is one."""
        if self.rate is None:
            return 0
        now = time.monotonic()
        if len(self._found) > 10_000:
            self._found = {c: b for c, b in self._found.items() if now - b[1] < 60}
        tokens, last = self._found.get(client, (self.rate, now))
        tokens = min(max(1.0, self.rate), tokens + (now - last) * self.rate / 60)
        self._found[client] = (tokens - take if tokens >= 1 else tokens, now)
        return 0 if tokens >= 1 else math.ceil((1 - tokens) * 60 / self.rate)


class SharedBuckets(Buckets):
    """The buckets of several web processes, in Redis; in this process while Redis is away."""

    def __init__(self, rate: float | None, url: str):
        super().__init__(rate)
        from redis.asyncio import Redis

        client = Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1)
        self._take, self._away_until = client.register_script(TAKE), 0.0

    async def seconds_to_wait(self, client: str, take: int = 1) -> int:
        """Take a token, or only look; return 0, or the seconds until there is one."""
        if self.rate is not None and time.monotonic() > self._away_until:
            try:
                return int(await self._take([f"corbel:rate:{client}"], [self.rate, take]))
            except Exception as error:  # of redis or the network
                log.warning("rate: Redis gives no answer (%s)", first_line(error))
                self._away_until = time.monotonic() + 5
        return await super().seconds_to_wait(client, take)


def client_of(request: Request, settings: Settings) -> str:
    """Return a name of the client for its rate: its key's digest, or its address; or refuse it."""
    if not settings.api_keys:
        if settings.is_local and _is_foreign(request):
            raise Refused(403, "pages of other sites may not use this service", "foreign_site")
        return request.client.host if request.client else ""
    bearer = re.sub("(?i)^bearer ", "", request.headers.get("authorization", "")).strip()
    given = request.headers.get("x-api-key") or request.cookies.get("corbel_key") or bearer
    if digest := key_digest(given, settings):
        return digest
    headers = {"WWW-Authenticate": "Bearer"}
    raise Refused(401, "this service needs a key: header X-API-Key", headers=headers)


def key_digest(given: str, settings: Settings) -> str | None:
    """Return the digest of a key of the service; None for any other text."""
    digest = hashlib.sha256(given.encode()).hexdigest()
    known = [hmac.compare_digest(digest, key.removeprefix("sha256:").lower()) for key in settings.api_keys]
    return digest if any(known) else None


def _is_foreign(request: Request) -> bool:
    """Whether another site's page asks, by the browser's word or under a name of its own (DNS rebinding)."""
    if request.method not in ("GET", "HEAD") and request.headers.get("sec-fetch-site") == "cross-site":
        return True
    name = re.sub(r":\d+$", "", request.headers.get("host", ""))
    return "." in name and re.fullmatch(r"[\d.]+|\[[\da-f:.]+\]|.*\.localhost", name) is None


def _guesses(request: Request) -> str:
    return f"401 {request.client.host if request.client else ''}"


class Around:
    """Checks a request before its body is read, and completes, counts and logs its answer."""

    def __init__(self, app: ASGIApp, settings: Settings, engine: Engine, figures: Figures):
        self.app, self.settings, self.engine, self.figures = app, settings, engine, figures
        url = settings.broker_url  # the buckets are of clients, and of addresses for wrong keys
        self.buckets = SharedBuckets(settings.rate, url) if url else Buckets(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request, begun, status, read = Request(scope, receive), time.perf_counter(), 0, 0
        ended = False  # the body: what is received afterwards is the client's leave
        request.state.request_id = uuid.uuid4().hex
        batch = scope["path"] == "/predict_batch"
        most = 10 * self.settings.max_bytes if batch else self.settings.max_bytes + 2**16

        async def limited() -> Message:
            nonlocal read, ended
            try:
                async with asyncio.timeout(None if ended else PATIENCE):
                    message = await receive()
            except TimeoutError as error:
                why = f"nothing more of the body came for {PATIENCE} s"
                raise HTTPException(408, why, {"Connection": "close"}) from error
            read += len(message.get("body", b""))
            ended = not message.get("more_body")
            if read > most:  # a Content-Length may be missing, or wrong
                raise HTTPException(413, f"{most:,} bytes at most")
            return message

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = PAGE_POLICY
                headers["X-Request-ID"] = request.state.request_id
            await send(message)

        try:
            await self._check(request)
            await self.app(scope, limited, completed)
        except Exception as error:
            if status:  # the answer has begun
                raise
            answer = await answer_to(request, error)
            await answer(scope, receive, completed)
        finally:
            await self._note(request, status, time.perf_counter() - begun)

    async def _check(self, request: Request) -> None:
        """Refuse a request without a key, beyond its rate, or for which the queue has no room.

        An address that gave wrong keys at the full rate waits: the next one may be right by chance.
        """
        path = request.scope["path"]  # not the URL's: that depends on the header Host
        page = path == "/" and "text/html" in request.headers.get("accept", "")
        wait = 0 if path.startswith(FREE) else await self.buckets.seconds_to_wait(_guesses(request), take=0)
        if not wait and not page and not path.startswith(OPEN):
            request.state.client = client = client_of(request, self.settings)
            wait = (
                0 if path.endswith("/file") else await self.buckets.seconds_to_wait(client)
            )  # a page has many
        if wait:
            raise Refused(429, "too many requests", headers={"Retry-After": str(wait)})
        if path in WORK:
            self.engine.refuse_if_full()

    async def _note(self, request: Request, status: int, seconds: float) -> None:
        if status == 401:
            await self.buckets.seconds_to_wait(_guesses(request))
        route = getattr(request.scope.get("route"), "path", "unknown")
        method = request.method if request.method in METHODS else "other"
        self.figures.requests.labels(method, route, status).inc()
        self.figures.seconds.labels(route).observe(seconds)
        if route not in QUIET or status >= 400:
            record = {"request_id": request.state.request_id, "method": request.method}
            record |= {"path": request.scope["path"], "status": status, "seconds": round(seconds, 4)}
            record |= getattr(request.state, "record", {})
            log.info("%s", json.dumps(record, ensure_ascii=False))
