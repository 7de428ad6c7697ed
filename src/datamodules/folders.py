"""Photos in folders: one folder per `Component_Defect` pair or per class, or a tree that is split already."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.datamodules.photos import PhotoDataModule
from src.datamodules.records import Record, Source, find_photos, ids_from_paths
from src.errors import InputError, listed, nearest

log = logging.getLogger(__name__)
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                 "test": "test", "testing": "test"}  # fmt: skip


def parse_pair(
    name: str, separator: str = "_", components: Iterable[str] = (), defects: Iterable[str] = ()
) -> tuple[str, str] | None:
    """Parse a folder's name as (component, defect), or return None.

    With a vocabulary the longest known component that starts the name and the longest known defect that ends it
    count, joined by any of `_`, `-`, space or `separator`; without one the name is cut at its last `separator`.
    With only one of the two vocabularies, the rest of the name is the other label.
    """
    joints = {separator, "_", "-", " "}

    def cut(rest: str, at_start: bool) -> str | None:
        for joint in sorted(joints, key=len, reverse=True):
            if at_start and rest.startswith(joint):
                return rest[len(joint) :].strip()
            if not at_start and rest.endswith(joint):
                return rest[: -len(joint)].strip()
        return None

    name = name.strip()
    components, defects = list(components), list(defects)
    for component in sorted(components, key=len, reverse=True):
        if name.startswith(component):
            rest = cut(name[len(component) :].lstrip(), at_start=True)
            if rest and (not defects or rest in defects):
                return component, rest
    if components:
        return None
    for defect in sorted(defects, key=len, reverse=True):
        if name.endswith(defect):
            rest = cut(name[: -len(defect)].rstrip(), at_start=False)
            if rest:
                return rest, defect
    if defects:
        return None
    component, _, defect = name.rpartition(separator)
    return (component.strip(), defect.strip()) if component.strip() and defect.strip() else None


def read_folders(
    root: Path,
    task: str,
    separator: str,
    vocabulary: Mapping[str, list[str]],
    healthy: list[str],
    strict: bool,
) -> Source:
    """Read the records below `root`.

    In task `multiclass` a folder's whole name is the label; else it is parsed as a pair.

    Raises:
        InputError: no such folder, no photo, no folder that parses, or (`strict`) one that does not.
    """
    if not root.is_dir():
        near = (
            nearest(root.name, [p.name for p in root.parent.iterdir() if p.is_dir()])
            if root.parent.is_dir()
            else []
        )
        hint = f"; folders beside it: {listed(near, 5)}" if near else ""
        raise InputError(f"data.root={root}: no such folder{hint}")
    paths = find_photos(root)
    if not paths:
        raise InputError(f"data.root={root}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    split_of = {top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    presplit = "train" in split_of.values() and len(split_of) > 1
    known_defects = [*vocabulary["defect"], *healthy] if vocabulary["defect"] else []
    records, given = [], {}
    outside, unparsed = 0, Counter()
    for path, id_ in zip(paths, ids_from_paths(paths), strict=True):
        parts = path.split("/")
        split = split_of.get(parts[0]) if presplit else None
        folder = parts[1 if split else 0]
        if len(parts) < (3 if split else 2) or (presplit and not split):
            outside += 1
            continue
        if task == "multiclass":
            labels = {"label": (folder,)}
        else:
            pair = parse_pair(folder, separator, vocabulary["component"], known_defects)
            if pair is None:
                unparsed[folder] += 1
                continue
            labels = {"component": (pair[0],), "defect": (pair[1],)}
        records.append(Record(id_, path, labels))
        if split:
            given[id_] = split
    _report(root, records, outside, unparsed, strict, separator)
    return Source(root, records, given=given if presplit else None)


def _report(
    root: Path, records: list[Record], outside: int, unparsed: Counter, strict: bool, separator: str
) -> None:
    shown = listed((f"'{name}' ({count} photos)" for name, count in sorted(unparsed.items())), 30)
    if unparsed and (strict or not records):
        raise InputError(
            f"data.root={root}: {len(unparsed)} folders do not parse as Component{separator}Defect: {shown}; "
            "rename them, set data.separator, or give data.components and data.defects "
            "(one label per folder: model=multiclass)"
        )
    if unparsed:
        log.warning(
            "Left out %d folders that do not parse as Component%sDefect: %s", len(unparsed), separator, shown
        )
    if outside:
        log.warning("Left out %d photos that lie in no label's folder", outside)
    if not records:
        raise InputError(f"data.root={root}: its photos lie in no folder that names a label")


class FolderDataModule(PhotoDataModule):
    """Photos in folders named `Component_Defect` (or one label), or below `train/`, `val/`, `test/`.

    Args:
        root: the folder that holds the label folders.
        separator: what stands between component and defect in a folder's name.
        components: known components, or null; with `defects` it parses names that the separator cannot.
        defects: known defects, or null.
        strict: whether a folder that does not parse is an error.
        **common: see `PhotoDataModule`.
    """

    def __init__(
        self,
        root: str | None,
        separator: str = "_",
        components: list[str] | None = None,
        defects: list[str] | None = None,
        strict: bool = False,
        **common,
    ):
        super().__init__(**common)
        if not root:
            raise InputError(
                "data.root is not set: name the folder that holds the label folders, data.root=photos/"
            )
        self.root = root
        self.separator = separator
        self.vocabulary = {"component": components or [], "defect": defects or []}
        self.strict = strict

    def read(self) -> Source:
        """Read the folders; see `read_folders`."""
        root = Path(self.root).expanduser()
        return read_folders(root, self.task, self.separator, self.vocabulary, self.healthy, self.strict)
