"""The photos of a run, split as they were there, with the notes of another one."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch.utils.data import Dataset

from src.datamodules.record_datamodule import RecordDataModule
from src.datamodules.records import Finding, Record, Source
from src.datamodules.text_columns import notes_by_path, read_notes, reading_of
from src.errors import InputError, listed
from src.files import user_path
from src.labels import SPLITS
from src.runs import find_checkpoint, read_table, recorded_root, run_of


class PhotoNoteDataModule(RecordDataModule):
    """Photos with notes; docs/configuration.md describes the arguments."""

    reads = "both"

    def __init__(
        self,
        photo: str | None,
        note: str | None,
        notes: str | None = None,
        photos: str | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.runs = {key: _run(key, given) for key, given in (("photo", photo), ("note", note))}
        self.notes, self.photos = notes, photos
        self.group = "group"

    def _source(self) -> Source:
        run = self.runs["photo"]
        root = user_path(self.photos) if self.photos else recorded_root(run)
        if root is None or not root.is_dir():
            raise InputError(f"the photos of {run} lay in {root}, which is gone: name it with data.photos=")
        rows = [row | {"split": s} for s in SPLITS for row in _table(run / f"{s}_metadata.csv")]
        saved = OmegaConf.load(self.runs["note"] / ".hydra" / "config.yaml").data
        table = self.notes or saved.get("csv")
        if not table or "text" not in saved:
            raise InputError(f"model.note={self.runs['note']}: no run of texts")
        notes = read_notes(user_path(table), "data.notes", reading_of(self.runs["note"]))
        note_of = notes_by_path(notes, {row["path"]: row["ID"] for row in rows}, root)
        if not note_of:
            raise InputError(f"data.notes={table}: none of its {len(notes)} IDs names a photo of {run}")
        kinds = [name for name in rows[0] if name not in ("ID", "path", "group", "split", "text")]
        several = self.multilabel
        records = [
            Record(
                row["ID"],
                row["path"],
                {k: tuple(n for n in (row[k].split(";") if several else [row[k]]) if n) for k in kinds},
                text=notes.get(note_of.get(row["path"])),
            )
            for row in rows
        ]
        split_of = {row["ID"]: row["split"] for row in rows}
        leaks = self._refuse_leak(records, split_of, root)
        without = sum(record.text is None for record in records)
        told = f"{len(records) - without} of {len(records)} photos have a note; {without} have none"
        return Source(
            root,
            records,
            rows=[row["ID"] for row in rows],
            columns={"group": [row["group"] for row in rows]},
            given=split_of,
            findings=[Finding("notes_matched", told, "", without), *leaks],
        )

    def _refuse_leak(self, records: list[Record], split_of: dict[str, str], root: Path) -> list[Finding]:
        """Refuse notes that model.note learned from or was tuned on, of photos held out from that.

        Where its IDs name none of the photos, return how many held-out notes read like its training texts.
        """
        tables = [_table(self.runs["note"] / f"{split}_metadata.csv") for split in SPLITS[:2]]
        id_of = {record.path: record.id for record in records}
        known = [notes_by_path([row["ID"] for row in table], id_of, root) for table in tables]
        for i, paths in enumerate(known):
            held = {record.path for record in records if SPLITS.index(split_of[record.id]) > i}
            if seen := sorted(held.intersection(paths)):
                raise InputError(
                    f"model.note was {('trained', 'tuned')[i]} on the notes of {len(seen)} photos that "
                    f"model.photo was not ({listed(seen, 2)}), so figures would be too good: train it with "
                    f"data.split_file={self.runs['photo']}"
                )
        texts = set() if any(known) else {row["text"] for row in tables[0]}
        alike = sum(record.text in texts for record in records if split_of[record.id] != "train")
        told = f"{alike} held-out notes read like training texts of model.note, whose IDs name no photo here"
        return [Finding("notes_seen", told, "the figures may be too good", alike)] if alike else []

    def sizes(self) -> set[int]:
        """Return no sizes of its own: those of the two models are kept."""
        return set()

    def dataset(self, split: str) -> Dataset:
        """Refuse: the models' probabilities are the features, computed before the fit."""
        raise NotImplementedError("photos with notes are served as features")


def _run(key: str, given: str | None) -> Path:
    if not given:
        raise InputError(
            f"model.{key} is not set: name a run of photos and one of texts, model.photo= model.note="
        )
    checkpoint = find_checkpoint(given)
    if (run := run_of(checkpoint)) is None:
        raise InputError(f"model.{key}={given}: no run is around it, whose tables tell how it was split")
    return run


def _table(path: Path) -> list[dict[str, str]]:
    found = read_table(path, ("ID",))
    return [] if found is None else found.to_dict("records")
