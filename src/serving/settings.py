"""Settings of the service: from `conf/serve.yaml`, the command line and `CORBEL_*` environment variables."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy import URL

from src.errors import InputError, first_line

Url = Annotated[str, Field(pattern="^[a-z][a-z0-9+.-]*:/{2,3}.+")]
Key = Annotated[str, Field(pattern="^(sha256:)?[0-9a-fA-F]{64}$")]


class Settings(BaseSettings):
    """Settings of one process of the service; see docs/service.md.

    A value from the command line wins over `CORBEL_<NAME>`, which wins over the default.
    """

    model_config = SettingsConfigDict(env_prefix="CORBEL_", extra="forbid", frozen=True)

    ckpt: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    folder: Url | Path = Path("outputs/serve")
    database_url: Url | None = None
    broker_url: Url | None = None
    backend: Literal["auto", "onnx", "torch"] = "auto"
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    workers: int = Field(1, ge=0, le=64)
    lease: float = Field(60.0, ge=1)
    patience: float = Field(30.0, ge=0)
    threads: int | None = Field(None, ge=1, le=256)
    api_keys: list[Key] = []
    max_bytes: int = Field(20 * 2**20, ge=1024)
    max_files: int = Field(100, ge=1)
    miss: float = Field(0.05, ge=0.01, lt=1)
    queue: int = Field(64, ge=1)
    timeout: float = Field(30.0, gt=0)
    drain: float = Field(30.0, ge=0)
    rate: float | None = Field(None, gt=0)
    quota_bytes: int | None = Field(None, ge=1)
    runs: Path = Path("outputs")

    @field_validator("folder")
    @classmethod
    def _is_place(cls, place: str | Path) -> str | Path:
        if isinstance(place, Path) and ":/" in place.as_posix()[2:]:  # C:/ is a drive
            raise ValueError("an address is written s3://bucket/folder, in small letters, without quotes")
        return place

    @field_validator("database_url", "broker_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "")
        if parts.port == 0 or parts.netloc.count("@") > 1:  # a port that is no number raises, too
            raise ValueError
        return url

    @property
    def database(self) -> str | URL:
        """The URL of the database: SQLite in the folder, where none is named."""
        sqlite = self.database_url is None or str(self.database_url).startswith("sqlite")
        if sqlite and isinstance(self.folder, str):
            raise InputError(
                f"folder={self.folder}: needs a database_url of PostgreSQL, for several machines"
            )
        return self.database_url or URL.create("sqlite", database=str((self.folder / "corbel.db").absolute()))

    @property
    def is_alone(self) -> bool:
        """Whether no other process may work on the database: it is a file of SQLite."""
        return str(self.database).startswith("sqlite")

    @property
    def is_local(self) -> bool:
        """Whether only this machine is listened to."""
        return self.host in ("127.0.0.1", "::1", "localhost")


def read_settings(given: dict[str, object]) -> Settings:
    """Return the settings; None among the given values leaves a setting to its variable or default."""
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**values)
    except SettingsError as error:  # a list that is no JSON
        raise InputError(f"environment variables CORBEL_*: {first_line(error)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = f" (or CORBEL_{name.upper()})" if name not in values else ""
        value = "..." if name == "api_keys" or name.endswith("_url") else repr(first.get("input"))
        told = first["msg"].lower().removeprefix("value error, ")
        if name.endswith("_url"):
            told = "needs an address, SCHEME://USER:PASSWORD@HOST:PORT/NAME, signs percent-encoded"
        raise InputError(f"{name}={value}{variable}: {told}") from error
