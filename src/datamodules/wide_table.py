"""Tables with one column per label, of 1 and 0, true and false, yes and no, or x and nothing."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from src.datamodules.findings import number
from src.errors import InputError, listed

log = logging.getLogger(__name__)
WORDS = (
    ("1", "0"), ("true", "false"), ("yes", "no"), ("x", "-"), ("y", "n"), ("t", "f"), ("ja", "nein"),
    ("j", "n"), ("wahr", "falsch"), ("oui", "non"), ("si", "no"), ("\u2713", "\u2717"), ("+", "-"),
    ("present", "absent"), ("positive", "negative"),
)  # fmt: skip
NO_LABELS = {"split", "group", "set", "fold", "index", "unnamed: 0"}


def labels_of_columns(
    frame: pd.DataFrame, others: Collection[str], nothing: str, where: str
) -> list[list[str]] | None:
    """Return the labels of each row of a table with one column per label; None for any other table.

    `others` are columns that are no labels, as those of IDs; `nothing` is the label of a row without any.
    """
    others = {name.casefold() for name in others} | NO_LABELS
    names = [name for name in frame.columns if name.casefold() not in others]
    cells = {name: [_plain(cell) for cell in frame[name]] for name in names}
    pairs = {name: shares for name, column in cells.items() if (shares := _words(column))}
    count = Counter(pair for shares in pairs.values() for pair in shares)
    yes, no = max(WORDS, key=lambda pair: (count[pair], sum(shares[pair] for shares in pairs.values())))
    if count[yes, no] < 2:
        return None
    rows = list(zip(*(cells[name] for name in pairs), strict=True))
    for name in pairs:  # where no cell says no, an empty one does
        allowed = (yes, no) if no in cells[name] else (yes, no, "")
        wrong = [i for i, row in enumerate(rows) if any(row) and cells[name][i] not in allowed]
        for i in wrong[:1]:
            raise InputError(
                f"{where}, row {frame.index[i]}, column '{name}': '{frame[name].iloc[i].strip()}' is neither "
                f"{yes} nor {no} ({len(wrong)} such cells); correct it, or remove the column if it is no "
                "label (one column with all labels: name it with data.columns)"
            )
    log.info("%s: one column per label: %s", where, listed(pairs, 30))
    if rest := [n for n in names if n not in pairs and None in map(number, filter(None, cells[n]))]:
        log.warning("%s: columns that are not read: %s", where, listed(rest))  # one may hold the labels
    says_no = any(no in cells[name] for name in pairs)
    found = []
    for row in rows:
        labels = [name for name, cell in zip(pairs, row, strict=True) if cell == yes]
        is_empty = says_no and not any(row)
        found.append(labels or ([nothing] if nothing and not is_empty else []))
    return found


def _plain(cell: str) -> str:
    """Return a cell in lower case; numbers that are 1 and 0 as such."""
    text = cell.strip().casefold()
    return {1.0: "1", 0.0: "0"}.get(number(text), text)


def _words(cells: Sequence[str]) -> Counter[tuple[str, str]]:
    """Return the words for yes and no that most cells are, with their share; `1` and `0` for scores."""
    count = Counter(filter(None, cells))
    shares = Counter({pair: sum(count[name] for name in pair) / max(1, count.total()) for pair in WORDS})
    if found := Counter({pair: share for pair, share in shares.items() if share >= 0.5}):
        return found
    numbers = [number(cell) for cell in count]
    scores = numbers and all(score is not None and -1 <= score <= 1 for score in numbers)
    return Counter({WORDS[0]: 1}) if scores else Counter()
