"""The claims of a split by photo and of a split by group, for the same heads on the same features.

`python -m benchmarks.leak experiment=sdnet2018 data.root=$SDNET2018 model.weights=$SQUEEZENET`
"""

import sys

import numpy as np
import torch

from benchmarks.harness import command, composed, figures_of, markdown
from src import config
from src.datamodules.records import label_space
from src.datamodules.splits import label_matrix, pair_matrix
from src.datamodules.stratify import split_groups
from src.inference.features import extract_features
from src.models.linear import fit_heads

SEEDS = range(1, 11)
SHARES = (0.7, 0.15, 0.15)


def main() -> None:
    """Print a Markdown table: accuracy per kind, or mean average precision, over ten splits of each sort."""
    cfg = composed(*sys.argv[1:], "output_dir=.")
    datamodule = config.build(cfg.data)
    linked, multilabel = datamodule.collect(), datamodule.multilabel
    records, labels = linked.records, label_space(linked.records)
    model = config.build(cfg.model, labels=labels.as_dict(), class_weights=None)
    features = extract_features(model, datamodule.root, records)
    encode = labels.encode if multilabel else labels.encode_classes
    targets = np.stack([encode(record.labels) for record in records])
    (_, columns), (_, pairs) = label_matrix(records), pair_matrix(records)
    ways = {"photos": np.arange(len(records)), "groups": linked.groups}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for seed in SEEDS:
        for way, groups in ways.items():
            chosen = split_groups(columns, groups, SHARES, seed, pairs=pairs)
            train, test = chosen == 0, chosen == 2
            heads = fit_heads(features[train], targets[train], labels, multilabel)
            scores = torch.from_numpy(heads.probabilities(features[test]))
            figures = figures_of(model.evaluate(scores, torch.from_numpy(targets[test])), {"mAP": "map"})
            seen = np.isin(linked.groups[test], linked.groups[train]).mean()
            found[way].append({**figures, "test photos whose group is in training": seen})
    groups = len(set(linked.groups.tolist()))
    print(f"{len(records)} photos, {groups} groups, {len(SEEDS)} splits of each sort\n")
    print(table(found))


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return mean and standard deviation of each figure for both sorts, and their difference."""
    rows = []
    for name in found["photos"][0]:
        both = photos, groups = [np.array([one[name] for one in found[way]]) for way in ("photos", "groups")]
        cells, apart = [f"{v.mean():.4f} ± {v.std(ddof=1):.4f}" for v in both], photos.mean() - groups.mean()
        row = {"figure": name, "split by photo claims": cells[0], "split by group": cells[1]}
        rows.append({**row, "too much": f"{apart:+.4f}"})
    return markdown(rows)


if __name__ == "__main__":
    command(main)
