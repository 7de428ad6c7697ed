"""Records of photos, from folders and tables alike; file search, IDs, labels per kind."""

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from src.errors import InputError, counted, listed, nearest
from src.files import refuse_archive
from src.images import EXTENSIONS
from src.labels import LabelSpace

log = logging.getLogger(__name__)
RANKS = 4  # names that an ID may have for a photo
EXAMPLES = 3  # of a finding
RUN_FILES = {".hydra", "explore.json", "audit.html"}  # of folders that training, explore and audit write
SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp", "@sharebin",
    "$recycle.bin", "system volume information", "lost+found", "network trash folder", "temporary items",
    "thumbnails", "thumbs", "_thumbs", "_thumbnails", "thumb", "~snapshot", "[originals]", "__pycache__",
    "lightning_logs", "mlruns", "wandb",
}  # fmt: skip
# of files that lie next to photos and are none
BESIDES = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".log",
    ".ini", ".db", ".xmp", ".aae", ".thm", ".xls", ".xlsx", ".ods", ".names", ".cfg", ".py", ".ipynb", ".url",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One photo or text.

    Attributes:
        id: unique among the records.
        path: POSIX, relative to the data root.
        labels: `{kind: labels}`, without duplicates, in the order of the source.
        group: photos of one group stay in one split.
        digest: 16 hex digits of the file's content, empty until it has been read.
        phash: its perceptual hash; None until it has been read, and for a photo without contrast.
        text: the note that is classified, or that belongs to the photo; None without one.
    """

    id: str
    path: str
    labels: Mapping[str, tuple[str, ...]]
    group: str = ""
    digest: str = ""
    phash: int | None = None
    text: str | None = None

    @property
    def shown(self) -> str:
        """What tables of errors name: the path of a photo, or the text that stands for itself."""
        return self.text if self.noun == "text" else self.path

    @property
    def noun(self) -> str:
        """What it is, in messages: photo or text."""
        return "text" if self.text is not None and self.path == self.id else "photo"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in the data that looks wrong although it can be read.

    Attributes:
        text: a clause with counts and up to three examples.
        cure: a key to set, or another way out.
        count: photos, files, rows or labels concerned.
        paths: up to three photos, relative to the data root.
    """

    name: str
    text: str
    cure: str
    count: int
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}; {self.cure}" if self.cure else self.text


@dataclass
class Source:
    """What a reader found.

    Attributes:
        root: the folder that the records' paths start from.
        rows: of a table, the ID of each row, empty for a row without a photo.
        columns: of a table, `{column: cells}`, as long as `rows`.
        given: `{ID: split}` of a split that the user gave.
        annotations: of a table, `{path: labels by kind of each of its rows}`.
        label_columns: of a table, `{kind: column}` of the labels.
        lost: of a table, `{ID: paths}` that name no photo, or several.
        unlabelled: paths of photos that carry no label.
        findings: what looks wrong in folders, table and labels.
    """

    root: Path
    records: list[Record]
    rows: Sequence[str] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    given: dict[str, str] | None = None
    annotations: Mapping[str, list[Mapping[str, list[str]]]] = field(default_factory=dict)
    label_columns: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, list[str]] = field(default_factory=dict)
    unlabelled: Sequence[str] = ()
    findings: list[Finding] = field(default_factory=list)


def tidy(name: str) -> str:
    """Return a label's name without outer spaces, and with composed letters: macOS names files decomposed."""
    return unicodedata.normalize("NFC", name.strip())


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        paths: POSIX paths of the photos, relative to the folder, sorted.
        skipped: photos in folders of systems, tools and earlier runs, by the folder's name; no photo of these
            is in `paths`.
        others: files of other types, by folder and extension.
        folders: all folders that were searched.
    """

    root: Path
    paths: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    others: Counter[tuple[str, str]] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """Return a finding of the skipped photos, and one of the files that are no photos."""
        found = []
        if total := self.skipped.total():
            shown = counted(dict((+self.skipped).most_common()))
            text = f"Left out {total} photos in folders of systems, tools or runs: {shown}"
            found.append(Finding("files_skipped", text, "rename the folder if they are meant", total))
        types = self.types()
        other = {name or "no extension": n for name, n in types.most_common() if name not in BESIDES}
        if total := sum(other.values()):
            shown = listed((f"{name} {count}" for name, count in other.items()), 8)
            text = f"{total} files left out, which are no photos by their extension: {shown}"
            found.append(Finding("files_of_other_types", text, "convert those that are photos", total))
        return found

    def types(self, below: str = "") -> Counter[str]:
        """Return the number of files of other types by extension, in all folders or `below` one."""
        types: Counter[str] = Counter()
        for (folder, extension), count in self.others.items():
            if not below or f"{folder}/".startswith(f"{below}/"):
                types[extension] += count
        return types


def list_photos(root: Path) -> Listing:
    """Return all files below `root` with a photo's extension, and what was left out.

    Hidden files and folders are left out. Linked folders are searched too, each folder once.
    """
    found = Listing(root)
    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, onerror=_unlisted, followlinks=True):
        relative = Path(folder).relative_to(root).as_posix()
        before = "" if relative == "." else f"{relative}/"
        if before and RUN_FILES.intersection(subfolders + files):
            found.skipped[before[:-1]] += _count_photos(folder)
            subfolders.clear()
            continue
        named = [name for name in sorted(subfolders) if not name.startswith(".")]
        for name in (name for name in named if name.lower() in SYSTEM_FOLDERS):
            found.skipped[name] += _count_photos(os.path.join(folder, name))
        subfolders[:] = [
            name
            for name in named
            if name.lower() not in SYSTEM_FOLDERS and _is_new(os.path.join(folder, name), seen)
        ]
        found.folders += [before + name for name in subfolders]
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if extension in EXTENSIONS:
                found.paths.append(before + name)  # no Path for each of many files
            else:
                found.others[before[:-1], extension] += 1
    for path in found.paths:
        if not is_unicode(path) or "\r" in path or "\n" in path:
            raise InputError(f"{root}: the file name {path!a} is not UTF-8, or holds a line break: rename it")
    found.paths.sort()
    found.skipped = +found.skipped  # only folders with photos
    return found


def _count_photos(folder: str) -> int:
    names = (name for _, _, files in os.walk(folder) for name in files)
    return sum(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names)


def find_photos(root: Path, key: str) -> Listing:
    """Return what `list_photos` finds in the folder that a key names; refuse one without a photo."""
    refuse_archive(key, root)
    if not root.is_dir():
        found = root.parent.iterdir() if root.parent.is_dir() else ()
        others = [p.name for p in found if p.is_dir() and not p.name.startswith(".")]
        hint = f"; folders next to it: {listed(nearest(root.name, sorted(others)), 5)}" if others else ""
        raise InputError(f"{key}={root}: no such folder{hint}")
    listing = list_photos(root)
    if not listing.paths:
        left = "".join(f"; {finding.text}" for finding in listing.findings())
        raise InputError(f"{key}={root}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp){left}")
    return listing


def is_unicode(name: str) -> bool:
    """Whether a name from the disk is valid UTF-8, so that it can be written into a file."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot list this folder ({error.strerror})") from error


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder has not been met under another name; `seen` takes it in."""
    real = os.path.realpath(folder)
    if real in seen:
        log.warning("Left out the folder %s: it is a link to one that is read anyway", folder)
        return False
    seen.add(real)
    return True


class PhotoIndex:
    """Finds the files that an ID of a table can mean.

    The first of these that names a file decides: the relative path, with extension or without, then the file
    name, with extension or without. Letter case counts only where several files differ in nothing else.
    """

    def __init__(self, root: Path, paths: Iterable[str] | None = None):
        self.root = root
        self.listing = list_photos(root) if paths is None else Listing(root, sorted(paths))
        self.paths = self.listing.paths
        # nearly every name means one photo: a list for each would be most of the index
        self._first: list[dict[str, str]] = [{} for _ in range(RANKS)]
        self._others: dict[tuple[int, str], list[str]] = defaultdict(list)
        for path in self.paths:
            for rank, name in enumerate(self._names(path)):
                key = tidy(name).casefold()
                if self._first[rank].setdefault(key, path) is not path:
                    self._others[rank, key].append(path)

    @staticmethod
    def _names(path: str) -> tuple[str, str, str, str]:
        whole = PurePosixPath(path)
        return path, whole.with_suffix("").as_posix(), whole.name, whole.stem

    def find(self, id_: str) -> list[str]:
        """Return the paths of the photos that `id_` can mean: one, none, or several where it is ambiguous."""
        for name in dict.fromkeys((id_, id_.replace("\\", "/"))):  # a name may well hold a backslash
            name = tidy(name.removeprefix("./").removeprefix(f"{self.root.as_posix()}/"))
            key = name.casefold()
            for rank in range(RANKS):
                first = self._first[rank].get(key)
                if first is None:
                    continue
                found = [first, *self._others.get((rank, key), ())]
                if len(found) > 1:
                    found = [path for path in found if tidy(self._names(path)[rank]) == name] or found
                return found
        return []

    def find_by_end(self, cell: str) -> str | None:
        r"""Return the one photo whose whole path, with or without extension, ends the path in a cell.

        So are paths of another machine or tool read: `C:\photos\a\0.jpg`, `file:///photos/a/0.jpg`,
        `https://host/a/0.jpg?x=1`, percent-encoded ones.
        """
        for parts in (path_parts(cell), path_parts(unquote(cell))):
            for start in range(len(parts)):
                key = "/".join(parts[start:]).casefold()
                for rank in range(2):
                    if key in self._first[rank]:
                        return None if (rank, key) in self._others else self._first[rank][key]
        return None


def path_parts(cell: str) -> list[str]:
    """Return the folders and the file that the path in a cell names, a URL without its query."""
    path = cell.partition("?d=")[2] or cell  # of Label Studio's local files
    path = re.split(r"[?#]", path)[0] if "://" in path else path
    return [part for part in re.split(r"[\\/]+", tidy(path)) if part not in ("", ".")]


def ids_from_paths(paths: Sequence[str]) -> list[str]:
    """Return an ID per path: the path without its extension, or the whole path where two would share one."""
    stems = [os.path.splitext(path)[0] for path in paths]
    count = Counter(stems)
    return [path if count[stem] > 1 else stem for path, stem in zip(paths, stems, strict=True)]


def one_label_per_kind(records: list[Record], multiple: str) -> list[Record]:
    """Hold each photo to one label of a kind, as heads need; for others `error`, `first` or `drop`."""
    several = [r for r in records if any(len(names) > 1 for names in r.labels.values())]
    if not several:
        return records
    which = f"{len(several)} {several[0].noun}s"
    key = "task" if several[0].noun == "text" else "model"
    if multiple == "first":
        log.warning("%s have several labels of a kind: the first one is kept", which)
        return [replace(r, labels={kind: names[:1] for kind, names in r.labels.items()}) for r in records]
    if multiple == "drop":
        log.warning("Left out %s with several labels of a kind", which)
        return [r for r in records if all(len(names) < 2 for names in r.labels.values())]
    shown = (f"{r.id} ({'; '.join('+'.join(n) for n in r.labels.values() if len(n) > 1)})" for r in several)
    raise InputError(
        f"{which} have several labels of a kind, which a softmax head cannot learn: "
        f"{listed(shown, 5)}; use {key}=multilabel, or data.multiple=first or data.multiple=drop"
    )


def without_healthy(records: list[Record], healthy: Iterable[str]) -> list[Record]:
    """Turn labels that mean "nothing wrong" into the absence of labels, as independent sigmoids need.

    A kind without any word, not even such a one, is left out.
    """
    healthy = set(healthy)
    return [
        replace(
            r,
            labels={
                kind: tuple(n for n in names if n not in healthy) for kind, names in r.labels.items() if names
            },
        )
        for r in records
    ]


def label_space(records: Iterable[Record]) -> LabelSpace:
    """Return the labels that the records carry, by kind; kinds that no record has a label of are left out."""
    found: dict[str, set[str]] = {}
    for record in records:
        for kind, names in record.labels.items():
            found.setdefault(kind, set()).update(names)
    return LabelSpace.from_labels({kind: names for kind, names in found.items() if names})
