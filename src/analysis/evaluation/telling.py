"""The words that the worst errors of a model of texts rest on, and those with the largest weights."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from src.analysis.evaluation.evaluation_folder import TELLING, WORDS
from src.analysis.evaluation.mistakes import TABLES, Mistake, error_rows
from src.files import write_csv
from src.runs import read_table

if TYPE_CHECKING:  # a page is written without torch
    from src.models.text_classifier import TextClassifier

ERRORS = 24  # of a run
COLUMNS = ["ID", "true", "predicted", "confidence", "words"]
LEAST = 0.005  # a word that moves a probability by less says nothing
SHOWN = 12  # n-grams of a label on a page
LONGEST = 300  # letters of a text on a page
WORD = re.compile(r"(\S+?):([+-]\d\.\d\d)(?:;|$)")
Words = list[tuple[str, float]]


def telling_words(model: "TextClassifier", mistakes: Sequence[Mistake], count: int) -> pd.DataFrame:
    """Return a row for each wrong label of the first texts: `COLUMNS`, the words as `word:+0.31;...`.

    They speak for the wrongly predicted label, or for a missed one; the number is by how much the probability
    of that label is higher with the word than without it.
    """
    rows = []
    for mistake in mistakes[:count]:
        for text, true, said, sure, _ in error_rows([mistake])[TABLES[0]]:
            found = [(word, drop) for word, drop in model.telling(text, said or true) if abs(drop) >= LEAST]
            words = ";".join(f"{word}:{drop:+.2f}" for word, drop in found)
            rows.append((mistake.photo, true, said, sure, words))
    return pd.DataFrame(rows, columns=COLUMNS)


def write_words(model: "TextClassifier", mistakes: Sequence[Mistake], folder: Path) -> None:
    """Write the words behind a run's worst errors, and of a baseline the largest weights of each label."""
    write_csv(folder / TELLING, telling_words(model.eval(), mistakes, ERRORS))
    if hasattr(model, "telling_words"):
        write_csv(folder / WORDS, pd.DataFrame(model.telling_words(), columns=["label", "words", "weight"]))


def read_weights(folder: Path) -> dict[str, Words]:
    """Return `{label: [(n-gram, weight)]}` from the table in a folder, an n-gram of words or letters once."""
    table, found = read_table(folder / WORDS, ("label", "words", "weight")), {}
    for row in [] if table is None else table.to_dict("records"):
        found.setdefault(row["label"], {}).setdefault(row["words"], float(row["weight"]))
    return {label: list(words.items())[:SHOWN] for label, words in found.items()}


def read_telling(folder: Path) -> dict[str, list[tuple[str, Words]]]:
    """Return `{ID: [(label, [(word, drop)])]}` from the table in a folder."""
    table, found = read_table(folder / TELLING, tuple(COLUMNS)), {}
    for row in [] if table is None else table.to_dict("records"):
        words = [(word, float(drop)) for word, drop in WORD.findall(row["words"])]
        found.setdefault(row["ID"], []).append((row["predicted"] or row["true"], words))
    return found


def excerpt(text: str) -> str:
    """Return the beginning of a text that is too long for a page."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rstrip()}…"


def marked(text: str, told: Sequence[tuple[str, Words]]) -> list[tuple[str, float]]:
    """Return the words of an excerpt, each with its number for the first label; 0 without one."""
    drops = dict(told[0][1]) if told else {}
    return [(word, drops.get(word, 0.0)) for word in excerpt(text).split()]
