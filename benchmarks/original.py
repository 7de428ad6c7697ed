"""The multi-label original's recipe against ours: the same backbone, splits and test photos.

`INFRA_MULTILABEL=FOLDER python scripts/benchmark.py original`; without the folder the demo set alone. In the
original's recipe all layers learn: some ten minutes for each seed on two cores.
"""

import os
import sys
import tempfile

import pandas as pd

from benchmarks.harness import BENCH, composed, markdown
from benchmarks.recipes import ALONE, trained
from src.overrides import override
from src.training.setup import quiet_lightning

SEEDS = 5
MANY = 10  # photos of a label, for the figures that leave out the rarest
SETS = {"demo": ("data.root=data/demo", override("data.group", r"^(A\d+)_"))}
RECIPES = {
    "ours": ("model=multilabel",),
    "original": ("experiment=component_defect_multilabel", "model.backbone=efficientnet_lite0"),
}


def main(rounds: int | None = None) -> bool:
    """Print a Markdown table for each set."""
    quiet_lightning()
    sets = dict(SETS)
    if root := os.environ.get("INFRA_MULTILABEL"):
        group = override("data.group", r"^(sdnet2018_[a-z]+_\d+)-")
        sets["infra_multilabel"] = (override("data.root", root), group)
    for name, overrides in sets.items():
        rows = [
            {"seed": seed, "recipe": recipe} | tested((*given, *overrides), seed)
            for seed in range(1, 1 + (rounds or SEEDS))
            for recipe, given in RECIPES.items()
        ]
        found = pd.DataFrame(rows).set_index(["seed", "recipe"])
        apart = found.xs("ours", level="recipe") - found.xs("original", level="recipe")
        lines = {recipe: found.xs(recipe, level="recipe") for recipe in RECIPES} | {"difference": apart}
        print(f"\n**{name}**: test, mean and standard deviation over {len(apart)} seeds\n")
        means = {
            recipe: {c: f"{part[c].mean():.3f} \u00b1 {part[c].std():.3f}" for c in part}
            for recipe, part in lines.items()
        }
        print(markdown([{"recipe": recipe} | line for recipe, line in means.items()]), flush=True)
    return True


def tested(overrides: tuple[str, ...], seed: int) -> dict[str, float]:
    """Return the test figures of one training."""
    with tempfile.TemporaryDirectory() as run:
        own = (override("output_dir", run), override("data.cache_dir", BENCH / "recipes"))
        scored, photos = trained(composed(*overrides, f"seed={seed}", *own, *ALONE))
    many = [v["f1"] for label, v in scored["per_class"].items() if photos[label] >= MANY and v["support"]]
    figures = {
        "macro-F1": scored["f1_macro"],
        f"macro-F1, labels with {MANY} photos or more": sum(many) / len(many),
        "macro-F1 at 0.5": scored["f1_macro_at_0.5"],
        "mAP": scored["map"],
    }
    print(f"{' '.join(overrides)}, seed {seed}: {figures}", file=sys.stderr, flush=True)
    return figures
