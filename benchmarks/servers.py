"""PostgreSQL, Redis and an S3 server of our own, on free ports of this machine, for tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import redis

USER, PASSWORD = "corbel", "only-on-loopback"
LAX = ("fsync=on", "shared_buffers=32MB", "max_connections=60", "unix_socket_directories=",
       "listen_addresses=127.0.0.1")  # fmt: skip


def binary(name: str) -> str | None:
    """Return the path of a server's program; Debian keeps PostgreSQL's out of the search path."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)


def missing() -> list[str]:
    """Return the servers that are not installed."""
    return [name for name in ("initdb", "postgres", "redis-server") if binary(name) is None]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Process:
    """A server that can be killed and started again."""

    def __init__(self, command: Sequence[str], answers: Callable[[], object], **options: object):
        self.command, self.answers, self.options = command, answers, options
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, **quiet | self.options)
        for _ in range(300):
            try:
                return self.answers()
            except Exception:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise RuntimeError(f"{self.command[0]} did not start")

    def end(self, signum: int = signal.SIGTERM) -> None:
        """End it with a signal, and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
            self.process.wait(60)


class Postgres(Process):
    """PostgreSQL with a password, as the user `postgres` where we are root: it refuses root."""

    def __init__(self, folder: Path):
        self.port, user = free_port(), {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        if user:
            for path in (folder, password):
                shutil.chown(path, **user)
        made = ("-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={password}")
        command = [binary("initdb"), "-D", str(data), "-U", USER, *made, "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, extra_groups=[], **user)
        settings = [word for setting in LAX for word in ("-c", setting)]
        command = [binary("postgres"), "-D", str(data), "-p", str(self.port), *settings]
        super().__init__(command, lambda: self.run("select 1"), cwd=folder, extra_groups=[], **user)

    def url(self, name: str = "postgres", password: str = PASSWORD) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{name}"

    def run(self, statement: str, name: str = "postgres") -> list[tuple]:
        """Run one statement in a transaction of its own; return its rows."""
        with psycopg.connect(self.url(name), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the address of a new database, and drop it afterwards."""
        name = f"c{uuid4().hex}"
        self.run(f"create database {name}")
        try:
            yield self.url(name)
        finally:
            self.run(f"drop database {name} with (force)")


class Redis(Process):
    """Redis without persistence."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        given = ("--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction",
                 "--requirepass", PASSWORD)  # fmt: skip
        super().__init__(
            [binary("redis-server"), "--port", str(self.port), *given], self.client.ping, cwd=folder
        )


class S3(Process):
    """Moto's server, which answers as S3 does; `environment` leads clients to it."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        super().__init__(command, self._answers, cwd=folder)

    def _answers(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()


@contextmanager
def started(kind: type[Process]) -> Iterator[Process]:
    """Start a server in a temporary folder; end it and remove the folder afterwards."""
    with tempfile.TemporaryDirectory(prefix="corbel-", ignore_cleanup_errors=True) as folder:
        server = kind(Path(folder))
        try:
            yield server
        finally:
            server.end(signal.SIGINT)
