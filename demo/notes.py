"""Inspectors' notes beside the photos: short lines from a small grammar, some vague, some wrong on purpose.

A note draws from a generator of its own, so that it depends on no pixel and no photo depends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng

from demo.plan import COMPONENTS, DEFECTS, HEALTHY, sort_of
from demo.tables import Entry, csv_bytes, other_label

NOTES, NOTES_TRUTH = "notes.csv", "notes_truth.csv"
NOTED, CONFLICTS = 0.85, 0.04  # share of photos with a note; of notes that contradict the photo
CONFLICT_OF_DEFECT = 0.7  # share of conflicts; the others name another component
VAGUE = {"component": 0.06, "defect": 0.12}  # share of notes that leave it open
SECOND = 0.4  # share of second labels that are mentioned
TYPO = 0.15  # share of notes with one

_PARTS = {  # of a bolt: the words of its fixture, and "bolt"; the first is the plain name
    "Channel Bracket": ("channel bracket", "chan brkt", "c-channel", "slotted channel", "strut bracket"),
    "Circular Connection": ("circular connection", "circ conn", "round flange", "flange ring", "ring flange"),
    "Grout Hole": ("grout hole", "grout plug", "GH", "grouting point", "injection hole"),
    "Radial Connection": ("radial connection", "rad conn", "radial plate", "segment plate"),
    "Centre Support": ("centre support", "ctr supp", "middle support", "mid post"),
    "Walkway Support": ("walkway support", "w/way supp", "gangway bracket", "footway arm"),
    "Circular Joint": ("circular joint", "circ jt", "ring joint", "circumferential jnt"),
    "Conveyor Support": ("conveyor support", "conv supp", "belt frame", "belt support"),
    "Radial Joint": ("radial joint", "rad jt", "longitudinal joint", "segment joint"),
}
_BOLTS = ("{} bolt", "bolt of {}", "bolt on {}", "{} fixing bolt")
_VAGUE_PARTS = {
    "bolt": ("bolt", "fixing", "the bolt there"),
    "steel": ("bracket", "support", "steelwork", "steel"),
    "concrete": ("lining", "segment", "connection", "joint"),
}
_FAULTS = {  # the first is the plain name
    "Drummy": ("drummy", "hollow sound", "sounds hollow", "delaminated", "drumy concrete",
               "hollow when tapped"),
    "Corrosion-Heavy": ("heavy corrosion", "badly rusted", "hvy corr", "flaking rust", "section loss, rust",
                        "severe rust"),
    "Corrosion-Surface": ("surface corrosion", "light rust", "surf corr", "rust film", "slight rust",
                          "superficial rust"),
    "Leaks": ("leaking", "water ingress", "seepage", "dripping", "wet, running", "active leak"),
    "Missing": ("missing", "not there", "gone", "absent", "fell out", "msg, empty hole"),
    "Loose": ("loose", "turns by hand", "not tight", "slack", "backed off"),
    "Coating Failure": ("coating failure", "paint peeling", "coating off", "flaking paint",
                        "paint blistered"),
    HEALTHY: ("no defect", "ok", "all good", "nil defects", "in good order", "nothing found"),
}  # fmt: skip
_HALF_FAULTS = {  # leave two labels open
    **dict.fromkeys(("Corrosion-Heavy", "Corrosion-Surface"), ("rusty", "corroded", "corr", "rust")),
    **dict.fromkeys(("Missing", "Loose"), ("bolt problem", "not secured", "needs new bolt")),
    **dict.fromkeys(("Drummy", "Leaks"), ("concrete defect", "cracked area", "patch needed")),
}
_OPEN_FAULTS = ("needs attention", "see photo", "bad", "minor", "poor cond", "as last year", "no change",
                "to be watched", "repair?", "")  # fmt: skip
_TEMPLATES = (
    "{part} {fault}", "{part}: {fault}", "{part} - {fault}", "{fault} {part}", "{fault}, {part}",
    "{part} {fault} {place}", "{part} {place}: {fault}", "{part} {place} {fault}",
    "{fault} at {part} {place}", "{place} {part} {fault}", "{place}: {part}, {fault}",
    "{place} - {fault} - {part}", "insp {place}: {part} {fault}", "found {part} {fault} {place}",
    "{part} {fault} {size}", "{fault} {size} {part}", "{part}, {fault}, {size}, {place}",
    "re {part} {place}, {fault} {size}", "{part} {fault} {tail}", "{part}: {fault}. {tail}",
    "{fault} {part} {place} {tail}", "{tail}: {part} {fault}", "checked {part}, {fault}",
    "{part} again {fault}",
)  # fmt: skip
_PLACES = ("LHS", "RHS", "crown", "invert", "springline", "haunch", "north side", "south side",
           "near xp {n}", "ring {n}", "rg {n}", "ch {n}", "ch 1+{n}", "seg {n}", "bay {n}", "at 3 o'clock",
           "high up", "low down")  # fmt: skip
_SIZES = ("{m}mm", "approx {m} mm", "{m}x{n}", "abt {m}mm", "~{m} mm wide", "{m} mm dia")
_TAILS = ("pls check", "photo taken", "tbc", "no access", "dirty", "bad light", "rpt next visit",
          "see sketch", "2nd visit", "asap")  # fmt: skip


@dataclass(frozen=True)
class Note:
    """An inspector's note.

    Attributes:
        entry: the photo, with the team's labels.
        text: one line.
        conflict: `component` or `defect` where the note contradicts the photo in it, else empty.
        component: label that the text names; empty where it leaves it open.
        defect: label that the text names; empty where it leaves it open.
    """

    entry: Entry
    text: str
    conflict: str
    component: str
    defect: str


def write_notes(entries: Sequence[Entry], seed: int) -> list[Note]:
    """Return the notes of the photos that have one; of the same seed and photo the same one."""
    rngs = (default_rng((seed, 40, entry.photo.index)) for entry in entries)
    return [_note(entry, rng) for entry, rng in zip(entries, rngs, strict=True) if rng.random() < NOTED]


def _note(entry: Entry, rng: np.random.Generator) -> Note:
    """Write the note of one photo."""
    if rng.random() < CONFLICTS:
        return _conflict(entry, rng)
    photo = entry.photo
    component, defect = photo.components[0], photo.defects[0]
    part, fault = _part(component, rng), _pick(_FAULTS[defect], rng)
    if rng.random() < VAGUE["component"]:
        part, component = _pick(_VAGUE_PARTS[sort_of(component)], rng), ""
    if rng.random() < VAGUE["defect"]:
        half = _HALF_FAULTS.get(defect, ()) if rng.random() < 0.5 else ()
        fault, defect = _pick(half or _OPEN_FAULTS, rng), ""
    seconds = [(_part(name, rng), "part") for name in photo.components[1:] if rng.random() < SECOND]
    seconds += [(_pick(_FAULTS[name], rng), "fault") for name in photo.defects[1:] if rng.random() < SECOND]
    for words, slot in seconds:
        joined = _pick((" + ", " and ", ", also "), rng).join((part if slot == "part" else fault, words))
        part, fault = (joined, fault) if slot == "part" else (part, joined)
    text = _line(part, fault, rng)
    return Note(entry, _typo(text, rng) if rng.random() < TYPO else text, "", component, defect)


def _conflict(entry: Entry, rng: np.random.Generator) -> Note:
    """Write a note that names, by its plain name, a label that the photo does not carry."""
    photo = entry.photo
    component, defect, kind = photo.components[0], photo.defects[0], "defect"
    if rng.random() < CONFLICT_OF_DEFECT:
        defect = other_label(rng, photo.defects, DEFECTS)
    else:
        families = {
            name.removesuffix("-Bolt") for name in photo.components
        }  # a bolt's fixture is in the photo
        family = tuple(name for name in COMPONENTS if name.removesuffix("-Bolt") in families)
        component, kind = other_label(rng, family, COMPONENTS), "component"
    part = component.lower().replace("-", " ")
    return Note(entry, _line(part, _FAULTS[defect][0], rng), kind, component, defect)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[rng.integers(len(words))]


def _part(component: str, rng: np.random.Generator) -> str:
    """Return words for a component."""
    words = _pick(_PARTS[component.removesuffix("-Bolt")], rng)
    return _pick(_BOLTS, rng).format(words) if component.endswith("-Bolt") else words


def _line(part: str, fault: str, rng: np.random.Generator) -> str:
    """Return a line that names the part and its fault."""
    place = _pick(_PLACES, rng).format(n=rng.integers(1, 400))
    size = _pick(_SIZES, rng).format(m=5 * rng.integers(1, 60), n=5 * rng.integers(1, 60))
    text = _pick(_TEMPLATES, rng).format(
        part=part, fault=fault, place=place, size=size, tail=_pick(_TAILS, rng)
    )
    text, style = " ".join(text.split()).strip(" ,:-"), rng.random()
    return text.lower() if style < 0.6 else text.upper() if style > 0.94 else text[0].upper() + text[1:]


def _typo(text: str, rng: np.random.Generator) -> str:
    """Return the line with one letter left out, doubled or swapped with the next."""
    at = int(rng.integers(1, len(text)))
    letter, rest = text[at], text[at + 1 :]
    return text[:at] + _pick((rest, 2 * letter + rest, rest[:1] + letter + rest[1:]), rng)


def note_tables(notes: Sequence[Note]) -> dict[str, bytes]:
    """Return the files of the notes: the team's table, and the truth about it."""
    table = [
        {"ID": note.entry.photo.id, "text": note.text, "component": ";".join(note.entry.components),
         "defect": ";".join(note.entry.defects), "asset": note.entry.photo.asset_name}
        for note in notes
    ]  # fmt: skip
    truth = [
        {"ID": note.entry.photo.id, "conflict": note.conflict, "said_component": note.component,
         "said_defect": note.defect}
        for note in notes
    ]  # fmt: skip
    return {NOTES: csv_bytes(table), NOTES_TRUTH: csv_bytes(truth)}
