"""Folder trees as other tools leave them: splits, sites, exports, companions of photos."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from src.datamodules.records import EXAMPLES, Finding, Listing
from src.datamodules.splits import SPLIT_NAMES
from src.errors import InputError, listed
from src.overrides import typed

_PICTURES = "images image imgs img pictures photos frames jpegimages leftimg8bit input inputs rgb"
_ANSWERS = """labels label annotations annotation annots masks mask segmentationclass segmentationobject
    ground_truth groundtruth gt gtfine imagesets bboxes boxes polygons targets target overlays heatmaps"""
PICTURES, ANSWERS = frozenset(_PICTURES.split()), frozenset(_ANSWERS.split())
OTHER_SPLITS = {**SPLIT_NAMES, "trainings": "train", "trn": "train", "dev": "val", "eval": "val",
                "evaluation": "val", "validierungs": "val", "holdout": "test", "tst": "test"}  # fmt: skip
SPLIT_LIKE = re.compile(
    rf"(?:.*[\W_])?({'|'.join(sorted(OTHER_SPLITS, key=len, reverse=True))})"
    r"[\W_]*(?:set|data|daten|split|images|imgs|photos|\d+)?"
)
PLACE_OR_TIME = re.compile(
    r"(?:19|20)\d\d(?:[\W_]?\d\d?){0,2}|\d+"
    r"|(?:site|batch|fold|split|part|set|session|day|week|month|year|campaign|inspection|camera|cam|station|line|plant"
    r"|lot|building|section|tunnel|bridge|floor|room|drone|user|inspector|run|visit|area|zone)[\W_]*\w{0,3}"
    r"|[a-z]?\d+[a-z]?|left|right|top|bottom|front|back|rear|inside|outside|upper|lower|north|south|east|west"
)
COMPANION = re.compile(
    r"(.+?)[_\-. ](?:masks?|seg|segm|segmentation|labels?|gt|annot|annotation|annotated|overlay|depth|heatmap"
    r"|thumb|thumbnail|preview|small|\d+x\d+)|(?:mask|seg|label|gt)[_\-](.+)"
)


def split_folders(paths: Sequence[str]) -> dict[str, str]:
    """Return `{folder: split}` of a tree that is split already, else nothing.

    A tree is split where its top folders hold a `train` and either another split or nothing else, so that a
    class named `train` among others stays a class; or where all top folders with folders of photos are named
    after two or three splits in another way (`dev`, `seg_train`, `val2017`). Some archives are unpacked into
    `train/train/`; that is then the folder.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if "/" in path:
            top, *others, _ = path.split("/")
            below[top].add(others[0] if others else "")
    whole = {
        top: f"{top}/{name}"
        if len(names) == 1 and (name := next(iter(names))).lower() == top.lower()
        else top
        for top, names in below.items()
    }
    named = {top: SPLIT_NAMES[top.lower()] for top in below if top.lower() in SPLIT_NAMES}
    if "train" in named.values() and (len(named) > 1 or len(below) == 1):
        return {whole[top]: split for top, split in named.items()}
    deep = {
        top for top, folder in whole.items() if any(re.match(rf"{re.escape(folder)}/.*/", p) for p in paths)
    }
    found = {top: split_name(top) for top in deep or below}
    if not all(found.values()) or "train" not in found.values() or len(set(found.values())) < 2:
        return {}
    return {whole[top]: split for top, split in found.items()}


def split_name(folder: str) -> str:
    """Return the split that a folder is named after, as `seg_train` or `val2017`; empty for none."""
    match = SPLIT_LIKE.fullmatch(folder.lower())
    return OTHER_SPLITS[match[1]] if match else ""


def split_and_folders(path: str, split_of: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the split of a photo's folder, empty for none, and the folders below it, the top one first."""
    *folders, _ = path.split("/")
    for depth in (2, 1):
        if (split := split_of.get("/".join(folders[:depth]))) and len(folders) >= depth:
            return split, folders[depth:]
    return "", folders


def splits_within(listing: Listing, split_of: Mapping[str, str]) -> bool:
    """Whether each label's folder holds the splits: `Crack/train/`, `Crack/val/`."""
    deep = [path.split("/")[:2] for path in listing.paths if path.count("/") > 1]
    splits, tops = {split_name(second) for _, second in deep}, {top for top, _ in deep}
    return len(tops) > 1 and not split_of and "" not in splits and "train" in splits and len(splits) > 1


def refuse_exports(listing: Listing, split_of: Mapping[str, str]) -> None:
    """Refuse a tree of an annotation tool, whose folders do not name labels."""
    folders = [split_and_folders(path, split_of)[1] for path in listing.paths]
    tops = {names[0] for names in folders if names}
    if {top.lower() for top in tops} - PICTURES - ANSWERS:
        return
    names = {name.lower() for folder in listing.folders for name in folder.split("/")}
    types = listing.others
    if not tops and not types[".json"] + types[".xml"] + types[".txt"]:
        return
    boxes = types[".json"] + types[".xml"] + types[".yaml"] or 2 * types[".txt"] > len(listing.paths)
    layout = "photos without label folders"
    if boxes or names & ANSWERS:
        layout = "an export of an annotation tool (COCO, LabelMe, Pascal VOC, YOLO, masks)"
    elif any(len(names) > 1 for names in folders):
        return
    where = f"its folders ({listed(sorted(tops), 4)}) name no label" if tops else "no folder names one"
    raise InputError(f"data.root={listing.root}: this looks like {layout}: {where}; {table_cure(listing)}")


def table_cure(listing: Listing) -> str:
    """Return how to train on photos whose folders name no labels."""
    tables = sorted([*listing.root.glob("*.csv"), *listing.root.glob("*/*.csv")])
    if tables:
        return f"if {tables[0].relative_to(listing.root)} holds labels, use data=table data.csv= data.images="
    return "write a table with the columns ID and label (component and defect): data.csv=... data.images=..."


def check_level(
    listing: Listing, split_of: Mapping[str, str], is_label: Callable[[str], object], pairs: bool
) -> list[Finding]:
    """Refuse a tree whose top folders are splits, sites or years, with the labels' folders below them.

    `is_label` says whether a folder's name can be read as labels; where folders name `pairs` of labels, that
    tells them from others. Returns a finding where some folders below are common to several top ones.
    """
    below: dict[str, set[str]] = defaultdict(set)
    direct: set[str] = set()
    for path in listing.paths:
        folders = split_and_folders(path, split_of)[1]
        if len(folders) > 1:
            below[folders[0]].add(folders[1])
        elif folders:
            direct.add(folders[0])
    tops, common = sorted(below), Counter(name for names in below.values() for name in names)
    if len(tops) == 1 and not direct and not split_of:
        _refuse_high_root(listing)
    shared = sorted(name for name, count in common.items() if count > 1)
    often = [name for name in shared if 2 * common[name] > len(below)]
    places = len(tops) + len(split_of) > 1 and all(map(_is_place, tops)) and not all(map(_is_place, common))
    alike = not direct and len(often) > 1 and 2 * len(often) >= len(common)
    labels_on_top = pairs and all(map(is_label, tops)) and not all(map(is_label, common))
    if not places and (not alike or all(map(_is_place, shared)) or labels_on_top):
        if direct or not shared or all(map(_is_place, shared)) or labels_on_top:
            return []
        text = f"The same folders lie below several labels' folders: {listed(shared, EXAMPLES)}"
        return [Finding("levels", text, "if these are the labels, use data.label_folder=parent", len(shared))]
    cure = "take these with data.label_folder=parent"
    if pairs and not any(map(is_label, [*tops, *common])):
        cure = "take both, component and defect, with data.label_folder=both"
    raise InputError(
        f"data.root={listing.root}: the folders {listed(tops, 4)} hold folders ({listed(sorted(common), 4)}) "
        f"that look like the labels: {cure}, or {listed(tops, 4)} with data.label_folder=top"
    )


def _refuse_high_root(listing: Listing) -> None:
    """Refuse a folder whose photos all lie in one folder of it, and name the one where they part."""
    deeper = os.path.commonpath([os.path.dirname(path) for path in listing.paths])
    names = {path[len(deeper) + 1 :].partition("/")[0] for path in listing.paths}
    if len(names) > 1 and all("/" in path[len(deeper) + 1 :] for path in listing.paths):
        root = typed("data.root", (listing.root / deeper).as_posix())
        raise InputError(
            f"data.root={listing.root}: all photos lie in {deeper}, in the folders "
            f"{listed(sorted(names), 4)}: take these as labels with {root}"
        )


def _is_place(name: str) -> bool:
    name = name.lower()
    return bool(PLACE_OR_TIME.fullmatch(name) or SPLIT_LIKE.fullmatch(name) or name in PICTURES | ANSWERS)


def check_names(listing: Listing, split_of: Mapping[str, str]) -> list[Finding]:
    """Return a finding of masks and small copies, by the names of files and folders."""
    stems, found = {os.path.splitext(path)[0] for path in listing.paths}, []
    for path in listing.paths:
        folder, slash, name = os.path.splitext(path)[0].rpartition("/")
        match = COMPANION.fullmatch(name)
        folders = {name.lower() for name in split_and_folders(path, split_of)[1]}
        if folders & ANSWERS or (match and folder + slash + (match[1] or match[2]) in stems):
            found.append(path)
    if not found:
        return []
    text = f"{len(found)} photos look like masks or small copies: {listed(found, EXAMPLES)}"
    return [Finding("companions", text, "move them out of data.root", len(found), tuple(found[:EXAMPLES]))]
