"""The application: what it is made of, how it starts and ends, and what it says of itself."""

import csv
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from src.errors import InputError
from src.files import read_json
from src.runs import finished_runs
from src.serving import image_routes, prediction_routes, text_routes
from src.serving.access import Around, Figures, client_of, key_digest
from src.serving.bodies import Activate
from src.serving.engine import Engine, ServedModel, load_served
from src.serving.jobs import Workers
from src.serving.refusals import Refused, answer_to, problems
from src.serving.settings import Settings
from src.serving.storage import MARK, Folder, open_folder
from src.serving.store import Store
from src.serving.tables import PredictionRow, ReviewRow

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
PAGES = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
router = APIRouter()


@dataclass
class Service:
    """The parts of one service, at `request.app.state.service`."""

    settings: Settings
    engine: Engine
    folder: Folder
    store: Store
    workers: Workers
    figures: Figures


def create_app(settings: Settings) -> FastAPI:
    """Return the application with its model loaded and its database ready, or raise an `InputError`."""
    database = settings.database
    folder = open_folder(settings.folder)  # before the database: SQLite's file lies there
    folder.write(MARK, b"")
    store = Store(database, settings.patience)
    model = load_served(settings.ckpt, settings.backend, settings.runs, settings.miss, settings.device)
    engine = Engine(model, settings.threads, settings.queue, settings.timeout)
    figures, broker = Figures(engine, store), _broker_of(settings)
    workers = Workers(store, engine, folder, settings, figures.predicted, broker)
    if unknown := _unknown(store.labels_in(ReviewRow, PredictionRow), model):
        log.warning("stored photos carry labels that this model does not know: %s", unknown)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if settings.is_alone:
            store.release_all()
        workers.start()
        yield
        await run_in_threadpool(workers.stop, settings.drain)
        await run_in_threadpool(engine.close)
        store.engine.dispose()

    about = "Components and their defects in inspection photos."
    errors = problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 503, 504, 507)
    own = {"docs_url": None, "redoc_url": None}  # FastAPI's load their scripts from the internet
    app = FastAPI(title="Corbel", description=about, lifespan=lifespan, responses=errors, **own)
    app.state.service = Service(settings, engine, folder, store, workers, figures)
    app.add_middleware(Around, settings=settings, engine=engine, figures=figures)
    for kind in (HTTPException, RequestValidationError):  # whose answers are FastAPI's otherwise
        app.add_exception_handler(kind, answer_to)
    for part in (router, prediction_routes.router, text_routes.router, image_routes.router):
        app.include_router(part)
    swagger = [(fastapi_offline.__name__, "static")]
    app.mount("/static", StaticFiles(directory=HERE / "static", packages=swagger), name="static")
    return app


def _broker_of(settings: Settings) -> Any:
    if settings.broker_url is None:
        return None
    try:
        from src.serving.celery_app import Broker
    except ModuleNotFoundError as error:
        missing = f'{error.name} is not installed: python -m pip install -e ".[cluster]"'
        raise InputError(f"broker_url: {missing}") from error
    return Broker(settings.broker_url, settings.patience)


@router.get("/", response_model=None)
async def root(request: Request) -> Response:
    """The page for a browser; for another client the names of the calls."""
    if "text/html" not in request.headers.get("accept", ""):
        said = "Corbel: send a photo to /predict; see /docs, /health"
        return JSONResponse({"message": said, "calls": sorted(request.app.openapi()["paths"])})
    try:
        client_of(request, request.app.state.service.settings)
    except Refused as refused:
        if refused.status != 401:
            raise
        return _login(401)
    predictor = request.app.state.service.engine.model.predictor
    several = predictor.task == "multilabel"
    page = PAGES.get_template("inspect.html").render(labels=predictor.labels.as_dict(), several=several)
    return HTMLResponse(page)


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The calls, to read and to try."""
    return HTMLResponse(PAGES.get_template("docs.html").render())


@router.get("/login", include_in_schema=False)
async def login() -> HTMLResponse:
    """The form for a key."""
    return _login()


def _login(status: int = 200, wrong: bool = False) -> HTMLResponse:
    return HTMLResponse(PAGES.get_template("login.html").render(wrong=wrong), status)


@router.post("/login", include_in_schema=False)
async def take_key(request: Request) -> Response:
    """Keep a key in a cookie that scripts cannot read and other sites cannot send."""
    key = str((await request.form()).get("key", ""))
    if key_digest(key, request.app.state.service.settings) is None:
        return _login(401, wrong=True)
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie("corbel_key", key, httponly=True, samesite="strict", secure=secure)
    return answer


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Whether the process answers, and the model that it serves."""
    return {"status": "UP", "model_version": request.app.state.service.engine.model.id}


@router.get("/ready", responses=problems(503))
def ready(request: Request) -> dict[str, str]:
    """Whether photos can be taken: a model is loaded, the database answers, the folder takes files."""
    service = request.app.state.service
    service.store.check()
    service.folder.check()
    return {"status": "READY", "model_version": service.engine.model.id}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    registry = request.app.state.service.figures.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/stats/")
def stats(request: Request) -> dict:
    """The training history of the loaded run, and its figures for each split."""
    model = request.app.state.service.engine.model
    if model.run is None:
        raise Refused(404, "the model is a file by itself: its training is not known here")
    file = model.run / "history.csv"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    history = [{name: float(x) for name, x in row.items() if x} for row in csv.DictReader(lines)]
    figures = read_json(model.run / "metrics.json")
    figures = {split: figures[split] for split in ("train", "val", "test") if split in figures}
    return {"run": model.run.name, "history": history, "figures": figures, **model.origin}


@router.get("/api/models")
def models(request: Request) -> dict:
    """The runs that can be served, the newest first."""
    service, found = request.app.state.service, []
    active = service.engine.model
    for run in finished_runs(service.settings.runs):
        name = run.relative_to(service.settings.runs).as_posix()
        f1 = (read_json(run / "metrics.json").get("val") or {}).get("f1_macro")
        is_active = active.run is not None and run.resolve() == active.run.resolve()
        found.append({"run": name, "val_f1": f1, "active": is_active})
    return {"data": found, **active.origin}


@router.post("/api/models/activate", responses=problems(404, 409))
def activate(request: Request, wanted: Activate) -> dict[str, str]:
    """Serve another run from now on; requests at work end with the model that they began with."""
    service = request.app.state.service
    folder = service.settings.runs
    runs = {run.relative_to(folder).as_posix(): run for run in finished_runs(folder)}
    if wanted.run not in runs:
        raise Refused(404, "no such run; GET /api/models lists those there are")
    try:
        settings = service.settings
        model = load_served(runs[wanted.run], settings.backend, folder, settings.miss, settings.device)
    except InputError as error:
        log.error("%s", error)
        raise Refused(409, "this run cannot be loaded; the log of the service says why") from error
    unknown = _unknown(service.store.labels_in(ReviewRow), model)
    if unknown and not wanted.force:
        why = f"reviews carry labels that this model does not know ({unknown}); they stay with force=true"
        raise Refused(409, why, "unknown_labels")
    service.engine.model = model
    log.info("activated %s (%s)", wanted.run, model.id)
    return {"run": wanted.run, **model.origin}


def _unknown(carried: dict[str, set[str]], model: ServedModel) -> str:
    """Return the first labels that a model does not know, each after its kind."""
    kinds = model.predictor.labels.kinds
    found = [(kind, name) for kind, names in carried.items() for name in names - {*kinds.get(kind, ())}]
    return ", ".join(f"{kind} '{name}'" for kind, name in sorted(found)[:5])
