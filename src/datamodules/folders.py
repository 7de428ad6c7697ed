"""Photos in folders: one folder per `Component_Defect` pair or per class, or a tree that is split already."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import Record, Source, find_photos, ids_from_paths, tidy
from src.datamodules.splits import SPLIT_NAMES
from src.errors import InputError, listed, nearest
from src.files import refuse_archive, user_path

log = logging.getLogger(__name__)


def parse_pair(
    name: str, separator: str = "_", components: Iterable[str] = (), defects: Iterable[str] = ()
) -> tuple[str, str] | None:
    """Parse a folder's name as (component, defect), or return None.

    With a vocabulary the longest known component that starts the name and the longest known defect that ends
    it count, joined by any of `_`, `-`, space or `separator`; without one the name is cut at its last
    `separator`. With only one of the two vocabularies, the rest of the name is the other label.
    """
    components, defects = list(components), list(defects)
    if not components and not defects:
        component, _, defect = (part.strip() for part in name.rpartition(separator))
        return (component, defect) if component and defect else None

    def longest_first(known: list[str]) -> str:
        return "|".join(re.escape(label) for label in sorted(known, key=len, reverse=True)) or r"\S.*?"

    joint = rf"(?:\s*(?:{re.escape(separator)}|[_-])\s*|\s+)"
    pattern = rf"({longest_first(components)}){joint}({longest_first(defects)})"
    match = re.fullmatch(pattern, name.strip())
    return (match[1], match[2]) if match else None


def _photos(root: Path) -> list[str]:
    """Return the paths of the photos below `root`, or say that there are none."""
    refuse_archive("data.root", root)
    if not root.is_dir():
        found = root.parent.iterdir() if root.parent.is_dir() else ()
        others = [p.name for p in found if p.is_dir() and not p.name.startswith(".")]
        hint = f"; folders next to it: {listed(nearest(root.name, sorted(others)), 5)}" if others else ""
        raise InputError(f"data.root={root}: no such folder{hint}")
    paths = find_photos(root)
    if not paths:
        raise InputError(f"data.root={root}: no photo in it (jpg, jpeg, png, bmp, tif, tiff, webp)")
    return paths


def _split_folders(paths: list[str]) -> dict[str, str]:
    """Return `{top folder: split}` of a tree that is split already, else nothing.

    A tree is split where its top folders hold a `train` and either another split or nothing else, so that a
    class named `train` among others stays a class.
    """
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    split_of = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    is_split = "train" in split_of.values() and (len(split_of) > 1 or len(tops) == 1)
    return split_of if is_split else {}


def _empty_folders(root: Path, split_of: Mapping[str, str], used: set[str]) -> list[str]:
    """Return the label folders, relative to `root`, without a photo: classes that somebody meant to have."""
    tops = [root / top for top in sorted(split_of)] or [root]
    folders = [p for top in tops for p in sorted(top.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return [p.relative_to(root).as_posix() for p in folders if tidy(p.name) not in used]


class FolderDataModule(PhotoDataModule):
    """Photos in folders named `Component_Defect` (or one label), or below `train/`, `val/`, `test/`.

    Args:
        root: the folder that holds the label folders.
        separator: between component and defect in a folder's name; known components and defects parse names
            that it cannot.
        strict: whether a folder that does not parse is an error.
        **common: see `PhotoDataModule`.
    """

    def __init__(self, root: str | None, separator: str = "_", strict: bool = False, **common):
        super().__init__(**common)
        if not root:
            raise InputError(
                "data.root is not set: name the folder that holds the label folders, data.root=photos/"
            )
        if not separator:
            raise InputError("data.separator is empty: name the text between component and defect")
        self.root, self.separator, self.strict = root, separator, strict

    def read(self) -> Source:
        """Read the records below `root`.

        Raises:
            InputError: no such folder, no photo, no folder that parses, or (`strict`) one that does not.
        """
        root = user_path(self.root)
        paths = _photos(root)
        split_of = _split_folders(paths)
        labels_of: dict[str, dict[str, tuple[str, ...]] | None] = {}
        records, given, outside = [], {}, []
        unparsed: Counter[str] = Counter()
        for path, id_ in zip(paths, ids_from_paths(paths), strict=True):
            *folders, _ = path.split("/")
            split = split_of.get(folders[0]) if folders else None
            folders = folders[1:] if split else folders
            if not folders or (split_of and not split):
                outside.append(path)
                continue
            name = tidy(folders[0])
            if name not in labels_of:
                labels_of[name] = self._labels(name)
            if labels_of[name] is None:
                unparsed[name] += 1
                continue
            records.append(Record(id_, path, labels_of[name]))
            if split:
                given[id_] = split
        self._report(root, records, outside, unparsed)
        if empty := _empty_folders(root, split_of, set(labels_of)):
            log.warning("Folders without a photo: %s", listed(empty, 30))
        labelled = {record.path for record in records}
        unlabelled = [path for path in paths if path not in labelled]
        return Source(root, records, given=given if split_of else None, unlabelled=unlabelled)

    def _labels(self, name: str) -> dict[str, tuple[str, ...]] | None:
        """Return the labels that a folder's name stands for; None where it is no pair."""
        if self.task == "multiclass":
            return {"label": (name,)}
        known = self.vocabulary["defect"]
        defects = [*known, *self.healthy] if known else []
        pair = parse_pair(name, self.separator, self.vocabulary["component"], defects)
        return pair and {"component": pair[:1], "defect": pair[1:]}

    def _report(self, root: Path, records: list[Record], outside: list[str], unparsed: Counter) -> None:
        """Log the folders and photos that were left out; stop if `strict`, or if nothing is left."""
        shown = listed((f"'{name}' ({count} photos)" for name, count in sorted(unparsed.items())), 30)
        shown = f"{len(unparsed)} folders do not parse as Component{self.separator}Defect: {shown}"
        if unparsed and (self.strict or not records):
            raise InputError(
                f"data.root={root}: {shown}; rename them, set data.separator, or give data.components and "
                "data.defects (one label per folder: model=multiclass)"
            )
        if unparsed:
            log.warning("Left out photos: %s", shown)
        if outside:
            count = len(outside)
            log.warning("Left out %d photos that lie in no label's folder: %s", count, listed(outside, 5))
        if not records:
            raise InputError(f"data.root={root}: its photos lie in no folder that names a label")
