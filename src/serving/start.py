"""The server process: its socket, taken before the model is loaded, and uvicorn on it."""

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from src.errors import InputError
from src.files import file_lock, make_folder
from src.serving.settings import Settings


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the lock of the folder, whose SQLite file one process may use, or raise an `InputError`."""
    if not settings.is_alone:
        yield
        return
    make_folder(settings.folder)
    with file_lock(settings.folder / ".lock") as taken:
        if not taken:
            raise InputError(f"folder={settings.folder}: another process serves it; name another folder")
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, or raise an `InputError` with the next free port."""
    try:
        return _bound(host, port)
    except OSError as error:
        why = os.strerror(error.errno).lower()
        for other in range(port + 1, min(port + 100, 65536)):
            try:
                _bound(host, other).close()
            except OSError:
                continue
            raise InputError(f"port={port}: {why}; port={other} is free") from error
        raise InputError(f"host={host} port={port}: {why}") from error


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def serve(app: FastAPI, listening: socket.socket, settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT; those at work are finished first, for `drain` seconds."""
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on")
    config.timeout_graceful_shutdown = math.ceil(settings.drain)
    uvicorn.Server(config).run(sockets=[listening])
