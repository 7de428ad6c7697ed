"""Which photo of a folder an ID means."""

from collections import defaultdict
from pathlib import Path, PurePosixPath

from src.datamodules.records import find_photos, tidy


class PhotoIndex:
    """Finds the files that an ID of a table can mean.

    The first of these that names a file decides: the relative path, with extension or without, then the file
    name, with extension or without. Letter case counts only where several files differ in nothing else.
    """

    def __init__(self, root: Path):
        self.root = root
        self.paths = find_photos(root)
        self._found: dict[tuple[int, str], list[str]] = defaultdict(list)
        for path in self.paths:
            for rank, name in enumerate(self._names(path)):
                self._found[rank, tidy(name).casefold()].append(path)

    @staticmethod
    def _names(path: str) -> tuple[str, str, str, str]:
        """Return the names that an ID may have for a photo, the most exact one first."""
        whole = PurePosixPath(path)
        return path, whole.with_suffix("").as_posix(), whole.name, whole.stem

    def find(self, id_: str) -> list[str]:
        """Return the paths of the photos that `id_` can mean: one, none, or several where it is ambiguous."""
        for name in dict.fromkeys((id_, id_.replace("\\", "/"))):  # a name may well hold a backslash
            name = tidy(name.removeprefix("./").removeprefix(f"{self.root.as_posix()}/"))
            for rank in range(4):
                found = self._found.get((rank, name.casefold()), [])
                if len(found) > 1:
                    found = [path for path in found if tidy(self._names(path)[rank]) == name] or found
                if found:
                    return found
        return []
