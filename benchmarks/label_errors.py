"""Planted label errors found by the audit's lists, against cleanlab on the same probabilities.

    python -m benchmarks.label_errors demo --weights squeezenet1_1.pth
    python -m benchmarks.label_errors table --csv labels.csv --images photos/ --group ASSET --weights FILE

`demo` audits the demo set's table (multilabel) and folders (dual_head, with wrong labels alone), `table` any
table; labels that were wrong in it before count as right. A planted error is a `missing` label; a `wrong` one
in another one's place; or, where such errors leave a label with none of the other kind that it truly occurs
with anywhere, an `impossible pair`. Precision at k is the share of them among a ranking's first k.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.harness import command, markdown
from demo.make import make_demo
from demo.tables import read_truth
from src.analysis.audit.suspects import find_suspects
from src.datamodules.folders import FolderDataModule
from src.datamodules.groups import Linked
from src.datamodules.records import label_space
from src.datamodules.splits import split_folds
from src.datamodules.table import TableDataModule
from src.inference.features import extract_features
from src.labels import LabelSpace
from src.models.classifiers import MultiLabelClassifier
from src.models.linear import out_of_fold

MISSING, WRONG, FOLDS, SEED, COUNT = 0.2, 0.05, 5, 42, 600
CUTS = (10, 25, 50)
PIXELS = {"image_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COMMON = {"preprocess": PIXELS, "splits": {"train": 0.7, "val": 0.15, "test": 0.15}}
HEALTHY = ("Intact", "Healthy", "None")
Items = list[tuple[int, ...]]  # photos, or (photo, label); in a ranking the most suspicious first


@dataclass(frozen=True)
class Case:
    """Records with planted errors."""

    linked: Linked
    labels: LabelSpace
    multilabel: bool
    probabilities: np.ndarray  # out of fold, [N, labels]
    given: np.ndarray  # the labels that the records carry, bool [N, labels]
    true: np.ndarray  # the labels that they should carry

    def replaced(self) -> np.ndarray:
        """Return the absent labels whose place a wrong one of their kind took, bool `[N, labels]`."""
        lost, put = self.true & ~self.given, self.given & ~self.true
        for part in self.labels.slices.values():
            lost[:, part] &= put[:, part].any(1, keepdims=True)
        return lost

    def planted(self) -> dict[str, set[tuple[int, ...]]]:
        """Return the errors of each kind: `(photo, label)`, for pairs `(photo,)`."""
        found = {"wrong": set(_items(self.given & ~self.true))}
        if self.multilabel:
            found["missing"] = set(_items(self.true & ~self.given & ~self.replaced()))
        if len(self.labels.kinds) == 2:
            found["impossible pair"] = self.photos_without(self.pairs(self.true).any(0))
        return found

    def pairs(self, carried: np.ndarray) -> np.ndarray:
        """Return the pairs that each photo shows, bool `[N, first kind, second kind]`."""
        first, second = self.labels.slices.values()
        return carried[:, first, None] & carried[:, None, second]

    def photos_without(self, seen: np.ndarray) -> set[tuple[int, ...]]:
        """Return photos with a label of the second kind in no pair `seen` with one of the first on them."""
        first, second = self.labels.slices.values()
        alone = self.given[:, second] & ~(self.given[:, first, None] & seen).any(1)
        return set(_items(alone.any(1) & self.given[:, first].any(1)))


def _items(cells: np.ndarray, scores: np.ndarray | None = None) -> Items:
    """Return the positions of the true cells, with `scores` the lowest first."""
    order = slice(None) if scores is None else np.argsort(scores[cells], kind="stable")
    return list(map(tuple, np.argwhere(cells)[order].tolist()))


def audited(linked: Linked, truth: Mapping[str, Sequence[str]], multilabel: bool, seen: np.ndarray) -> Case:
    """Return records with `truth` `{path: labels}`, judged out of fold by heads on features `seen`."""
    labels = label_space(linked.records)
    encode = labels.encode if multilabel else labels.encode_classes
    targets = np.stack([encode(record.labels) for record in linked.records])
    probabilities = out_of_fold(seen, targets, split_folds(linked, FOLDS, SEED), labels, multilabel)
    given = np.stack([labels.encode(record.labels) for record in linked.records]) > 0
    true = np.array([[name in truth[record.path] for name in labels.names] for record in linked.records])
    return Case(linked, labels, multilabel, probabilities, given, true)


def audit(case: Case) -> dict[str, Items]:
    """Return the lists of the audit."""
    lists = find_suspects(case.linked, case.labels, case.multilabel, case.probabilities)
    position = case.labels.position
    return {
        "missing": [(s.position, position(s.add[0])) for s in lists["missing_label"]],
        "wrong": [(s.position, position(s.remove[0])) for s in lists["wrong_label"]],
        "impossible pair": list(dict.fromkeys((s.position,) for s in lists["unseen_pair"])),
    }


def cleanlab(case: Case, adjust: bool = False, issues_first: bool = False) -> dict[str, Items]:
    """Return labels ranked by cleanlab's score, and photos by that of their worst given label."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores = np.ones(case.given.shape)
    parts = case.labels.slices.values()
    if case.multilabel:  # one against the rest, as cleanlab.multilabel_classification does it
        parts = [slice(label, label + 1) for label in range(len(case.labels))]
    for part in parts:
        likely = case.probabilities[:, part].astype(float)
        likely = np.hstack([1 - likely, likely]) if case.multilabel else likely
        classes = case.given[:, part.start].astype(int) if case.multilabel else case.given[:, part].argmax(1)
        scores[:, part] = get_label_quality_scores(classes, likely, adjust_pred_probs=adjust)[:, None]
        if issues_first:
            scores[:, part] += 10.0 * ~find_label_issues(classes, likely, n_jobs=1)[:, None]

    worst = np.where(case.given, scores, np.inf).min(1)
    photos = [(photo,) for photo in np.argsort(worst, kind="stable").tolist()]
    kinds = {"missing": ~case.given, "wrong": case.given}
    return {kind: _items(mask, scores) for kind, mask in kinds.items()} | {"impossible pair": photos}


def unseen_pairs_first(case: Case) -> dict[str, Items]:
    """Return photos by cleanlab's score, first those with a pair that no photo of another group shows."""
    pairs, groups = case.pairs(case.given), case.linked.groups
    shown = np.stack([pairs[groups == group].any(0) for group in range(groups.max() + 1)])
    total = shown.sum(0)
    unseen = case.photos_without(total > shown[groups])
    photos = cleanlab(case)["impossible pair"]
    return {"impossible pair": sorted(photos, key=lambda photo: photo not in unseen)}


METHODS: dict[str, Callable[[Case], dict[str, Items]]] = {
    "audit": audit,
    "cleanlab, self-confidence": cleanlab,
    "cleanlab, adjusted": lambda case: cleanlab(case, adjust=True),
    "cleanlab, issues first": lambda case: cleanlab(case, issues_first=True),
    "cleanlab, unseen pairs first": unseen_pairs_first,
}


def measured(name: str, cases: Sequence[Case]) -> list[dict]:
    """Return a row per kind of error and method: planted errors and precisions at k, of all cases."""
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for case in cases:
        for method, rank in METHODS.items():
            rankings = rank(case)
            for kind, errors in case.planted().items():
                if kind in rankings and errors:
                    # a label whose place a wrong one took is found with that one
                    aside = set(_items(case.replaced())) if kind == "missing" else set()
                    right = [item in errors for item in rankings[kind] if item not in aside]
                    found[kind, method].append([len(errors), *(sum(right[:k]) for k in (*CUTS, len(errors)))])
    rows = []
    for kind, method in sorted(found):
        planted, *hits, last = np.sum(found[kind, method], axis=0)
        shares = {f"p@{k}": n / k / len(cases) for k, n in zip(CUTS, hits, strict=True)}
        row = {"set": name, "kind": kind, "method": method, "planted": int(planted)}
        rows.append({**row, **shares, "p@planted": last / planted})
    return rows


def plant(linked: Linked, seed: int) -> tuple[Linked, np.ndarray, dict[str, list[str]]]:
    """Return records with planted errors, their former positions, and `{path: labels}` as they were.

    A label is left out, or gives way to another one of its kind. Photos that have no label left are left out.
    """
    rng, names = np.random.default_rng(seed), defaultdict(set)
    for record in linked.records:
        for kind, found in record.labels.items():
            names[kind] |= set(found)

    def taken(kind: str, found: Sequence[str]) -> tuple[str, ...]:
        others, draws = sorted(names[kind] - set(found)), rng.random(len(found))
        put = {
            str(rng.choice(others)) if draw < MISSING + WRONG and others else name: None
            for name, draw in zip(found, draws, strict=True)
            if draw >= MISSING
        }
        return tuple(put)

    changed = [replace(r, labels={k: taken(k, v) for k, v in r.labels.items()}) for r in linked.records]
    kept = np.flatnonzero([any(record.labels.values()) for record in changed])
    truth = {r.path: [name for found in r.labels.values() for name in found] for r in linked.records}
    now = np.full(len(changed), -1)
    now[kept] = np.arange(len(kept))
    there = (now[linked.pairs] >= 0).all(1)
    groups = np.unique(linked.groups[kept], return_inverse=True)[1]
    pairs, distances = now[linked.pairs[there]], linked.distances[there]
    return Linked([changed[i] for i in kept], groups, pairs, distances), kept, truth


def demo_cases(seed: int, model: MultiLabelClassifier) -> tuple[Case, Case]:
    """Draw the demo set; return its table and its folders."""
    with tempfile.TemporaryDirectory() as folder:
        make_demo(folder, count=COUNT, seed=seed, missing=MISSING, wrong=WRONG)
        rows = {row["path"]: row for row in read_truth(folder)}
        folders = FolderDataModule(task="dual_head", root=folder, group=r"^(A\d+)_", **COMMON).collect()
        options = {"group": "asset", "healthy": HEALTHY, **COMMON}
        table = TableDataModule(task="multilabel", root=folder, **options).collect()
        seen = extract_features(model, Path(folder), folders.records)
    row_of = {record.path: i for i, record in enumerate(folders.records)}
    every = {path: f"{row['components']};{row['defects']}".split(";") for path, row in rows.items()}
    main = {path: [row["main_component"], row["main_defect"]] for path, row in rows.items()}
    of_table = seen[[row_of[record.path] for record in table.records]]
    return audited(table, every, True, of_table), audited(folders, main, False, seen)


def table_cases(given: argparse.Namespace, model: MultiLabelClassifier) -> Iterator[Case]:
    """Yield a table with errors planted by each seed."""
    options = {"group": given.group, "healthy": HEALTHY, **COMMON}
    datamodule = TableDataModule(task="multilabel", csv=given.csv, images=given.images, **options)
    linked = datamodule.collect()
    seen = extract_features(model, datamodule.root, linked.records)
    for seed in given.seeds:
        changed, kept, truth = plant(linked, seed)
        yield audited(changed, truth, True, seen[kept])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=("demo", "table"))
    for name in ("--weights", "--csv", "--images", "--group"):
        parser.add_argument(name)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    any_label = {"task": "multilabel", "labels": {"label": ["any"]}, "preprocess": PIXELS}
    model = MultiLabelClassifier(**any_label, backbone=given.backbone, weights=given.weights)
    if given.data == "demo":
        tables, folders = zip(*(demo_cases(seed, model) for seed in given.seeds), strict=True)
        rows = measured("demo, table", tables) + measured("demo, folders", folders)
    else:
        rows = measured(Path(given.csv).parent.name, list(table_cases(given, model)))
    print(markdown(rows, 2))


if __name__ == "__main__":
    command(main)
