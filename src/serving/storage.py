"""Where photos are kept: a folder, which machines may share, or storage with the interface of S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from src.errors import InputError, UnreadableImage, first_line
from src.files import make_folder, write_whole
from src.images import read_photo

ANSWER = 10.0  # seconds in which S3 has to begin an answer, at each of two attempts

MARK = ".corbel"  # an empty file that web processes leave


class StorageAway(Exception):
    """The storage gives no answer, or refuses."""


class Folder:
    """A folder on a disk; files are whole or not there."""

    def __init__(self, path: Path):
        self.path = path
        make_folder(path)

    def read(self, name: str) -> bytes:
        """Return the content of a photo's file; `UnreadableImage` where there is none."""
        return read_photo(self.path / name)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; it survives a power cut."""
        write_whole(self.path / name, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise the error with which a file cannot be written."""
        with TemporaryFile(dir=self.path):
            pass

    def expect_mark(self) -> None:
        """Raise `StorageAway` where no web process keeps photos: without them each job would fail."""
        if not self.has(MARK):
            raise StorageAway("no web process of Corbel keeps photos here: workers need the same folder")


class Bucket(Folder):
    """The same below an address of fsspec, `s3://bucket/folder`; one write makes an object, whole."""

    def __init__(self, url: str):
        try:
            import fsspec

            self.files, self.root = fsspec.core.url_to_fs(url, **_options(url))
            self.files.retries = 1  # of s3fs, on top of those of botocore
        except (ImportError, ValueError, OSError) as error:
            cure = 'python -m pip install -e ".[cluster]"'
            raise InputError(f"folder={url}: {first_line(error)}: {cure}") from error
        try:
            self.check()
        except StorageAway as error:
            raise InputError(f"folder={url}: cannot be written ({error})") from error

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UnreadableImage("no such file") from error
        except Exception as error:  # of the network, of S3: each library has its own
            raise StorageAway(first_line(error)) from error

    def read(self, name: str) -> bytes:
        """Return the content of an object; `UnreadableImage` where there is none."""
        with self._asking():
            content = self.files.cat_file(f"{self.root}/{name}")
        return read_photo(content)

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        with self._asking():
            return self.files.exists(f"{self.root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        with self._asking():
            self.files.pipe_file(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._asking():
            try:
                self.files.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

    def check(self) -> None:
        """Write an object and remove it; `StorageAway` where that cannot be."""
        name = f".check-{uuid4().hex}"
        try:
            self.write(name, b"x")
            self.remove(name)
        except UnreadableImage as error:  # a bucket that is not there
            raise StorageAway(f"{self.root.split('/')[0]}: no such bucket") from error


def open_folder(place: str | Path) -> Folder:
    """Return the folder of a service, ready to be written; or raise an `InputError`."""
    return Bucket(place) if isinstance(place, str) else Folder(place)


def _options(url: str) -> dict[str, object]:
    if not url.startswith("s3:"):
        return {}
    from aiobotocore.session import get_session
    from botocore.handlers import add_expect_header

    session = get_session()
    session.unregister("before-call.s3", add_expect_header)  # aiohttp waits for its answer for ever
    patience = {"connect_timeout": 5, "read_timeout": ANSWER, "retries": {"total_max_attempts": 2}}
    return {"session": session, "use_listings_cache": False, "config_kwargs": patience}  # others write, too
