"""Photos in folders: one folder per `Component_Defect` pair or per class, or a tree that is split already."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from src.datamodules import records as rec
from src.datamodules.layouts import (
    check_level,
    check_names,
    refuse_exports,
    split_and_folders,
    split_folders,
    split_name,
    splits_within,
    table_cure,
)
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import EXAMPLES, Finding, Listing, Record, Source, tidy
from src.errors import InputError, counted, listed
from src.files import user_path

KINDS = ("component", "defect")
log = logging.getLogger(__name__)


def parse_pair(
    name: str, separator: str = "_", components: Iterable[str] = (), defects: Iterable[str] = ()
) -> tuple[str, str] | None:
    """Parse a folder's name as (component, defect), or return None.

    With a vocabulary the longest known component that starts the name and the longest known defect that ends
    it count, in any letter case, joined by any of `_`, `-`, space or `separator`; without one the name is cut
    at its last `separator`. With only one of the two vocabularies, the rest of the name is the other label.
    """
    components, defects = list(components), list(defects)
    if not components and not defects:
        component, _, defect = (part.strip() for part in name.rpartition(separator))
        return (component, defect) if component and defect else None

    def longest_first(known: list[str]) -> str:
        return "|".join(re.escape(label) for label in sorted(known, key=len, reverse=True)) or r"\S.*?"

    joint = rf"(?:\s*(?:{re.escape(separator)}|[_-])\s*|\s+)"
    pattern = rf"({longest_first(components)}){joint}({longest_first(defects)})"
    match = re.fullmatch(pattern, name.strip(), re.IGNORECASE)
    if not match:
        return None
    spelled = {known.casefold(): known for known in (*components, *defects)}
    first, second = (spelled.get(match[i].casefold(), match[i]) for i in (1, 2))
    return first, second


def _empty_folders(listing: Listing, split_of: Mapping[str, str], used: set[str]) -> list[str]:
    """Return the label folders without a photo, classes that somebody meant to have."""
    found = []
    for folder in listing.folders:
        above, _, name = folder.rpartition("/")
        at_level = above in split_of and above.lower() != name.lower() if split_of else not above
        skipped = any(place.startswith(folder) for place in listing.skipped)
        if at_level and not skipped and tidy(name) not in used:
            found.append(folder)
    return found


class FolderDataModule(PhotoDataModule):
    """Photos in folders named `Component_Defect` (or one label), or below `train/`, `val/`, `test/`.

    docs/configuration.md describes the arguments.
    """

    def __init__(self, root: str | None, separator: str = "_", label_folder: str | None = None, **common):
        super().__init__(**common)
        if not root:
            raise InputError(
                "data.root is not set: name the folder that holds the label folders, data.root=photos/"
            )
        if not separator:
            raise InputError("data.separator is empty: name the text between component and defect")
        if label_folder not in (None, "top", "parent", "both"):
            raise InputError(f"data.label_folder={label_folder}: choices: top, parent, both, null")
        self.root, self.separator, self.label_folder = root, separator, label_folder

    def _source(self) -> Source:
        root = user_path(self.root)
        listing = rec.find_photos(root, "data.root")
        paths, split_of = listing.paths, split_folders(listing.paths)
        within = self.label_folder in (None, "top") and splits_within(listing, split_of)
        findings = listing.findings()
        if self.label_folder is None and not within:
            refuse_exports(listing, split_of)
            findings += check_level(listing, split_of, self._labels, self.task != "multiclass")
        level = {"parent": -1, "both": None}.get(self.label_folder, 0)
        labels_of: dict[str, dict[str, tuple[str, ...]] | None] = {}
        records, given, outside, unnamed = [], {}, [], []
        unparsed: Counter[str] = Counter()
        for path, id_ in zip(paths, rec.ids_from_paths(paths), strict=True):
            split, folders = split_and_folders(path, split_of)
            short = len(folders) < (2 if within or level is None else 1)
            if short or (split_of and not split):
                outside.append(path)
                continue
            split = split_name(folders[1]) if within else split
            name = self.separator.join(map(tidy, folders[:2])) if level is None else tidy(folders[level])
            if name not in labels_of:
                labels_of[name] = self._labels(name)
            if labels_of[name] is None:
                unparsed[name] += 1
                continue
            if not any(labels_of[name].values()):
                unnamed.append(path)
                continue
            records.append(Record(id_, path, labels_of[name]))
            if split:
                given[id_] = split
        findings += check_names(listing, split_of)
        findings += self._left_out(listing, records, outside, unparsed)
        if unnamed:
            text = f"Left out {len(unnamed)} photos whose folders name no label after data.missing"
            findings.append(Finding("photos_unlabelled", text, "", len(unnamed), tuple(unnamed[:EXAMPLES])))
        if level == 0 and (empty := _empty_folders(listing, split_of, set(labels_of))):
            text = f"Folders without a photo: {listed(empty, 30)}"
            findings.append(Finding("folders_empty", text, "", len(empty)))
        labelled = {record.path for record in records}
        unlabelled = [path for path in paths if path not in labelled]
        given = given if split_of or within else None
        return Source(root, records, given=given, unlabelled=unlabelled, findings=findings)

    def _labels(self, name: str) -> dict[str, tuple[str, ...]] | None:
        if self.task == "multiclass":
            return {"label": tuple(filter(None, [self.label(name)]))}
        known = self.vocabulary["defect"]
        defects = [*known, *self.healthy] if known else []
        pair = parse_pair(name, self.separator, self.vocabulary["component"], defects)
        if not pair:
            return None
        return {k: tuple(filter(None, [self.label(n)])) for k, n in zip(KINDS, pair, strict=True)}

    def _left_out(
        self, listing: Listing, records: list[Record], outside: list[str], unparsed: Counter
    ) -> list[Finding]:
        found = []
        if unparsed:
            shown = counted({f"'{name}'": unparsed[name] for name in sorted(unparsed)}, 30, " photos")
            shown = f"{len(unparsed)} folders do not parse as Component{self.separator}Defect: {shown}"
            cure = (
                "rename them, set data.separator, or give data.components and data.defects "
                "(one label per folder: model=multiclass)"
            )
            if not records:
                raise InputError(f"data.root={listing.root}: {shown}; {cure}")
            found.append(Finding("folders_unparsed", f"Left out photos: {shown}", cure, unparsed.total()))
        if not records:
            none = "its photos lie in no folder that names a label"
            raise InputError(f"data.root={listing.root}: {none}; {table_cure(listing)}")
        if outside:
            text = f"Left out {len(outside)} photos that lie in no label's folder: {listed(outside, 5)}"
            found.append(Finding("photos_outside", text, "", len(outside), tuple(outside[:EXAMPLES])))
        return found
