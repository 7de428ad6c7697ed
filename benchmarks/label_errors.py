"""How many planted label errors do the audit's lists find, beside cleanlab on the same probabilities?

    python -m benchmarks.label_errors demo --weights squeezenet1_1.pth
    python -m benchmarks.label_errors table --csv labels.csv --images photos/ --group ASSET --weights FILE

`demo` draws the demo set with 20 % of its labels missing and 5 % wrong, and audits its table (multilabel) and
its folders (dual_head, which has wrong labels alone). `table` plants as many into a table of one's own: what
was wrong in it before counts as right.

A planted error is a `missing` label; a `wrong` one in another one's place; or, where such errors leave a
label with none of the other kind that it truly occurs with anywhere, an `impossible pair`. Precision at k is
the share of a ranking's first k that are planted errors of the kind; at k = planted it is the recall as well.
A label whose place a wrong one took is found with that one: rankings of missing labels leave it out.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.analysis.label_errors import find_suspects
from src.datamodules import FolderDataModule, TableDataModule
from src.datamodules.groups import Linked
from src.datamodules.records import label_space
from src.datamodules.splits import split_folds
from src.demo import make_demo
from src.demo.tables import read_truth
from src.errors import InputError, leave
from src.inference.features import extract_features
from src.labels import LabelSpace
from src.models import MultiLabelClassifier
from src.models.linear import out_of_fold

MISSING, WRONG, FOLDS, SEED, COUNT = 0.2, 0.05, 5, 42, 600
CUTS = (10, 25, 50)
PIXELS = {"image_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COMMON = {"preprocess": PIXELS, "splits": {"train": 0.7, "val": 0.15, "test": 0.15}}
HEALTHY = ("Intact", "Healthy", "None")
Ranking = list[tuple[int, ...]]  # photos, or (photo, label), the most suspicious first


@dataclass(frozen=True)
class Case:
    """Records with planted errors.

    Attributes:
        linked: the records as given.
        labels: the label space.
        multilabel: any combination of labels on a photo.
        probabilities: out of fold, `[N, labels]`.
        given: which labels the records carry, bool `[N, labels]`.
        true: which they should carry.
    """

    linked: Linked
    labels: LabelSpace
    multilabel: bool
    probabilities: np.ndarray
    given: np.ndarray
    true: np.ndarray

    @property
    def replaced(self) -> np.ndarray:
        """The absent labels whose place a wrong one of their kind took, bool `[N, labels]`."""
        lost, put = self.true & ~self.given, self.given & ~self.true
        for part in self.labels.slices.values():
            lost[:, part] &= put[:, part].any(1, keepdims=True)
        return lost

    def photos_without(self, seen: Callable[[int], np.ndarray]) -> set[tuple[int, ...]]:
        """Return photos with a label of the second kind that no label of the first on it is seen with.

        Args:
            seen: from a photo to the pairs that are seen, bool `[first kind, second kind]`.
        """
        first, second = self.labels.slices.values()
        both = self.given[:, first].any(1) & self.given[:, second].any(1)
        return {
            (photo,)
            for photo in np.flatnonzero(both).tolist()
            if (self.given[photo, second] & ~seen(photo)[self.given[photo, first]].any(0)).any()
        }

    def planted(self) -> dict[str, set[tuple[int, ...]]]:
        """Return the errors of each kind: `(photo, label)`, for pairs `(photo,)`."""
        lost, put = self.true & ~self.given & ~self.replaced, self.given & ~self.true
        found = {"wrong": set(map(tuple, np.argwhere(put).tolist()))}
        if self.multilabel:
            found = {"missing": set(map(tuple, np.argwhere(lost).tolist())), **found}
        if len(self.labels.kinds) == 2:
            pairs = self.pairs(self.true).any(0)
            found["impossible pair"] = self.photos_without(lambda photo: pairs)
        return found

    def pairs(self, carried: np.ndarray) -> np.ndarray:
        """Return the pairs that each photo shows, bool `[N, first kind, second kind]`."""
        first, second = self.labels.slices.values()
        return carried[:, first, None] & carried[:, None, second]

    def unseen(self) -> set[tuple[int, ...]]:
        """Return photos with a label that is on no photo of another group with a label of the other kind."""
        pairs, groups = self.pairs(self.given), self.linked.groups
        shown = np.stack([pairs[groups == group].any(0) for group in range(groups.max() + 1)])
        total = shown.sum(0)
        return self.photos_without(lambda photo: total > shown[groups[photo]])


def audited(linked: Linked, truth: Mapping[str, Sequence[str]], multilabel: bool, seen: np.ndarray) -> Case:
    """Return records with `truth` `{path: labels}`, judged out of fold by heads on features `seen`."""
    labels = label_space(linked.records)
    encode = labels.encode if multilabel else labels.encode_classes
    targets = np.stack([encode(record.labels) for record in linked.records])
    folds = split_folds(linked, FOLDS, SEED)
    given = np.stack([labels.encode(record.labels) for record in linked.records]) > 0
    true = np.array([[name in truth[record.path] for name in labels.names] for record in linked.records])
    probabilities = out_of_fold(seen, targets, folds, labels, multilabel)
    return Case(linked, labels, multilabel, probabilities, given, true)


def ours(case: Case, with_groups: bool) -> dict[str, Ranking]:
    """Return the lists of the audit; without groups, every photo is one."""
    linked = case.linked
    if not with_groups:
        linked = replace(linked, groups=np.arange(len(linked.records)))
    lists = find_suspects(linked, case.labels, case.multilabel, case.probabilities)
    position = case.labels.position
    return {
        "missing": [(s.position, position(s.add[0])) for s in lists["missing_label"]],
        "wrong": [(s.position, position(s.remove[0])) for s in lists["wrong_label"]],
        "impossible pair": list(dict.fromkeys((s.position,) for s in lists["unseen_pair"])),
    }


def cleanlab_scores(case: Case, adjust: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return cleanlab's label quality and which labels it calls issues, both `[N, labels]`."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores, issues = np.ones(case.given.shape), np.zeros(case.given.shape, bool)
    parts = case.labels.slices.values()
    if case.multilabel:  # one against the rest, as cleanlab.multilabel_classification does it
        parts = [slice(label, label + 1) for label in range(len(case.labels))]
    for part in parts:
        likely = case.probabilities[:, part].astype(float)
        likely = np.hstack([1 - likely, likely]) if case.multilabel else likely
        classes = case.given[:, part.start].astype(int) if case.multilabel else case.given[:, part].argmax(1)
        quality = get_label_quality_scores(classes, likely, adjust_pred_probs=adjust)
        scores[:, part] = quality[:, None]
        issues[:, part] = find_label_issues(classes, likely, n_jobs=1)[:, None]
    return scores, issues


def cleanlab(case: Case, adjust: bool, issues_first: bool) -> dict[str, Ranking]:
    """Return labels ranked by cleanlab's score, and photos by that of their worst given label."""
    scores, issues = cleanlab_scores(case, adjust)
    scores = scores + ~issues * issues_first * 10.0

    def ranked(mask: np.ndarray) -> Ranking:
        cells = np.argwhere(mask)
        return list(map(tuple, cells[np.argsort(scores[mask], kind="stable")].tolist()))

    worst = np.where(case.given, scores, np.inf).min(1)
    photos = [(photo,) for photo in np.argsort(worst, kind="stable").tolist()]
    return {"missing": ranked(~case.given), "wrong": ranked(case.given), "impossible pair": photos}


def pairs_first(case: Case) -> dict[str, Ranking]:
    """Return the photos with unseen pairs, then the others, each by cleanlab's score."""
    unseen = case.unseen()
    photos = cleanlab(case, False, False)["impossible pair"]
    return {"impossible pair": sorted(photos, key=lambda photo: photo not in unseen)}


METHODS = {
    "audit": lambda case: ours(case, True),
    "audit, groups unknown": lambda case: ours(case, False),
    "cleanlab, self-confidence": lambda case: cleanlab(case, False, False),
    "cleanlab, adjusted": lambda case: cleanlab(case, True, False),
    "cleanlab, issues first": lambda case: cleanlab(case, False, True),
    "cleanlab, unseen pairs first": pairs_first,
}


def measured(name: str, cases: Sequence[Case]) -> list[dict]:
    """Return a row per kind of error and method: precisions at k, means over the cases."""
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for case in cases:
        for method, rank in METHODS.items():
            rankings = rank(case)
            for kind, errors in case.planted().items():
                if kind in rankings and errors:
                    cells = map(tuple, np.argwhere(case.replaced).tolist())
                    aside = set(cells) if kind == "missing" else set()
                    right = [item in errors for item in rankings[kind] if item not in aside]
                    hits = [sum(right[:cut]) for cut in (*CUTS, len(errors))]
                    found[kind, method].append([len(errors), *hits])
    rows = []
    for (kind, method), values in found.items():
        totals = np.array(values).sum(0)
        precisions = {
            f"p@{cut}": hits / cut / len(values) for cut, hits in zip(CUTS, totals[1:], strict=False)
        }
        row = {"set": name, "kind": kind, "method": method, "planted": int(totals[0])}
        rows.append({**row, **precisions, "p@planted": totals[-1] / totals[0]})
    order = list(METHODS)
    kinds = ["missing", "wrong", "impossible pair"]
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), order.index(row["method"])))


def plant(linked: Linked, seed: int) -> tuple[Linked, np.ndarray, dict[str, list[str]]]:
    """Return records with planted errors, their former positions, and `{path: labels}` as they were.

    A label is left out, or gives way to another one of its kind, each as probable. Photos that have no label
    left are left out.
    """
    rng, names = np.random.default_rng(seed), defaultdict(set)
    for record in linked.records:
        for kind, found in record.labels.items():
            names[kind] |= set(found)
    changed = []
    for record in linked.records:
        labels = {}
        for kind, found in record.labels.items():
            others = sorted(names[kind] - set(found))
            draws = rng.random(len(found))
            taken = [
                str(rng.choice(others)) if MISSING <= draw < MISSING + WRONG and others else name
                for name, draw in zip(found, draws, strict=True)
                if draw >= MISSING
            ]
            labels[kind] = tuple(dict.fromkeys(taken))
        changed.append(replace(record, labels=labels))
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
        table = TableDataModule(
            task="multilabel", root=folder, group="asset", healthy=HEALTHY, **COMMON
        ).collect()
        seen = extract_features(model, Path(folder), folders.records)
    row_of = {record.path: i for i, record in enumerate(folders.records)}
    every = {path: f"{row['components']};{row['defects']}".split(";") for path, row in rows.items()}
    main = {path: [row["main_component"], row["main_defect"]] for path, row in rows.items()}
    of_table = seen[[row_of[record.path] for record in table.records]]
    return audited(table, every, True, of_table), audited(folders, main, False, seen)


def table_cases(
    seeds: Sequence[int], csv: str, images: str, group: str | None, model: MultiLabelClassifier
) -> Iterator[Case]:
    """Yield a table with errors planted by each seed."""
    datamodule = TableDataModule(
        task="multilabel", csv=csv, images=images, group=group, healthy=HEALTHY, **COMMON
    )
    linked = datamodule.collect()
    seen = extract_features(model, datamodule.root, linked.records)
    for seed in seeds:
        changed, kept, truth = plant(linked, seed)
        yield audited(changed, truth, True, seen[kept])


def run(
    data: str,
    weights: str,
    backbone: str = "squeezenet1_1",
    seeds: Sequence[int] = (0, 1, 2),
    csv: str = "",
    images: str = "",
    group: str | None = None,
) -> list[dict]:
    """Return rows `{set, kind, method, planted, p@10, p@25, p@50, p@planted}`, over all seeds.

    Args:
        data: `demo` or `table`.
        weights: of the backbone that gives the features.
        backbone: its name.
        seeds: of what is drawn and planted.
        csv: for `table`, the labels.
        images: for `table`, the photos.
        group: for `table`, as `data.group`.

    Raises:
        InputError: for files that cannot be read or do not fit.
    """
    model = MultiLabelClassifier(
        task="multilabel", labels={"label": ["any"]}, preprocess=PIXELS, backbone=backbone, weights=weights
    )
    if data == "demo":
        tables, folders = zip(*(demo_cases(seed, model) for seed in seeds), strict=True)
        return measured("demo, table", tables) + measured("demo, folders", folders)
    return measured(Path(csv).parent.name, list(table_cases(seeds, csv, images, group, model)))


def markdown(rows: Sequence[Mapping]) -> str:
    """Return rows as a Markdown table, fractions with two digits."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=("demo", "table"))
    for name in ("weights", "csv", "images"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--group")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args(argv)
    begun = time.perf_counter()
    try:
        rows = run(**vars(arguments))
    except InputError as error:
        leave(2, str(error))
    print(markdown(rows))
    print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
