"""The files of an audit, and of its way back into the labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.analysis.agreement import agreement, agreement_csv
from src.analysis.audit_page import TITLES, Audit, audit_page
from src.analysis.audit_table import audit_csv
from src.datamodules.photos import PhotoDataModule
from src.errors import InputError, listed
from src.files import make_folder, user_path, write_whole

PAGE, LIST, ROWS = "audit.html", "audit.csv", "agreement.csv"
TABLE, SPLIT, CHANGES, SUMMARY = "image_data.csv", "split.csv", "changes.csv", "summary.json"
AUDITED, APPLIED = (PAGE, LIST, ROWS), (TABLE, SPLIT, CHANGES, SUMMARY)


def claim(folder: Path, datamodule: PhotoDataModule, names: Sequence[str]) -> None:
    """Make the folder; refuse one that holds such files, lies among the photos, or cannot be written.

    Raises:
        InputError: because a person's decisions or labels may stand in it.
    """
    photos = user_path(getattr(datamodule, "images", None) or datamodule.root)
    if folder.resolve().is_relative_to(photos.resolve()):
        raise InputError(f"output={folder}: lies among the photos in {photos}; name a folder outside")
    make_folder(folder)
    refuse_to_replace(folder, names)


def refuse_to_replace(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds such files; another call may have written them since it was claimed."""
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(f"output={folder}: it holds {listed(there)} already; name another folder")


def write_audit(found: Audit, datamodule: PhotoDataModule, folder: Path, top: int, command: str) -> None:
    """Write `audit.html`, `audit.csv` and, where a photo has several rows, `agreement.csv`.

    Args:
        found: by the audit, but for how well several rows of a photo agree.
        datamodule: after `collect()`.
        folder: to write into.
        top: how many photos each list of the page shows.
        command: what takes the decisions back, as one types it.
    """
    multilabel = datamodule.multilabel
    healthy = datamodule.healthy if multilabel else ()
    rows = datamodule.source.annotations
    several = [record for record in found.records if len(rows.get(record.path, ())) > 1]
    agreements = agreement(several, rows, found.labels, healthy, not multilabel) if several else []
    found = replace(found, agreements=agreements)
    refuse_to_replace(folder, AUDITED)
    if agreements:
        write_whole(folder / ROWS, agreement_csv(agreements))
    write_whole(folder / PAGE, audit_page(found, top, command))
    write_whole(folder / LIST, audit_csv(found.records, found.labels, found.suspects, found.nearest))


def said(found: Audit) -> str:
    """Return what was found, in a few lines for the console."""
    lines = [f"{len(suspects):6,}  {TITLES[name][0]} ({name})" for name, suspects in found.suspects.items()]
    lines += [f"cannot be judged: {listed(found.unjudged, 30)}"] if found.unjudged else []
    return "\n".join(lines)
