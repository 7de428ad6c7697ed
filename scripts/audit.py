"""List suspected label errors, take the answers back: `python scripts/audit.py data.root=photos/`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config, overrides, targets
from src.errors import InputError
from src.files import user_path

OWN = {"ckpt", "folds", "top", "apply", "output", "device"}
READING = re.compile(r"experiment|model|data(\..+)?")
OLD = {"data", "data.root", "data.csv", "data.images", "data.strict"}


@config.command("audit")
def main(cfg: DictConfig) -> None:
    """Write the lists of suspects or, with `apply=`, a new table with the decisions on them."""
    from src.analysis.audit_files import APPLIED, AUDITED, claim
    from src.demo.at_hand import draw_when_missing
    from src.models import base, defaults

    base.set_full_precision()
    targets.check_targets(defaults.fill_defaults(cfg))
    config.check_seed(cfg.seed)
    if cfg.top < 0:
        raise InputError(f"top={cfg.top}: needs a number from 0 on")
    draw_when_missing(cfg.data.get("root"))
    datamodule = config.build(cfg.data)
    folder = user_path(cfg.output or cfg.output_dir)
    claim(folder, datamodule, APPLIED if cfg.apply else AUDITED)
    take_back(cfg, datamodule, folder) if cfg.apply else audit(cfg, datamodule, folder)


def audit(cfg: DictConfig, datamodule, folder: Path) -> None:
    """Judge every label by heads that were trained on other groups, and list what they doubt."""
    from src.analysis.audit_features import feature_model
    from src.analysis.audit_files import LIST, PAGE, said, write_audit
    from src.analysis.audit_page import Audit
    from src.analysis.audit_table import encoded, judged_labels
    from src.analysis.label_errors import find_suspects, nearest_labelled, unjudgeable
    from src.datamodules.splits import split_folds
    from src.inference.features import extract_features
    from src.models.linear import out_of_fold

    linked, multilabel = datamodule.collect(), datamodule.multilabel
    labels, folds = judged_labels(linked.records, multilabel), split_folds(linked, cfg.folds, cfg.seed)
    model, origin, notes = feature_model(cfg, labels, linked.records)
    kept = datamodule.cache_dir if datamodule.cache == "features" else None
    features = extract_features(model, datamodule.root, linked.records, cfg.device, cache_dir=kept)
    scores = out_of_fold(features, encoded(linked.records, labels, multilabel), folds, labels, multilabel)
    found = Audit(
        name="/".join(datamodule.root.absolute().parts[-2:]),
        root=datamodule.root,
        records=linked.records,
        groups=linked.groups,
        labels=labels,
        suspects=find_suspects(linked, labels, multilabel, scores),
        unjudged=unjudgeable(linked, labels),
        nearest=nearest_labelled(features, linked.groups),
        features=origin,
        notes=notes,
    )
    back = {"apply": overrides.shown(folder.absolute() / LIST)}
    command = overrides.command_like_this("audit", READING.fullmatch, back)
    write_audit(found, datamodule, folder, cfg.top, command)
    print(f"{said(found)}\npage  {overrides.shown(folder.absolute() / PAGE)}\nthen  {command}")


def take_back(cfg: DictConfig, datamodule, folder: Path) -> None:
    """Write a new table with the decisions of `apply=`, and say how to train on it."""
    from src.analysis.audit_apply import apply_audit, told
    from src.analysis.audit_files import SPLIT, TABLE

    summary = apply_audit(datamodule, datamodule.collect(), user_path(cfg.apply), folder)
    old = OWN | OLD | (set() if datamodule.source.columns else {"data.separator"})
    table = overrides.shown(folder.absolute() / TABLE)
    new = {"data": "table", "data.csv": table, "data.images": datamodule.root}
    if datamodule.source.given and not datamodule.split_file:
        new["data.split_file"] = overrides.shown(folder.absolute() / SPLIT)
    command = overrides.command_like_this("train", lambda key: key not in old, new)
    print(f"{told(summary)}\ntable {table}\ntrain {command}")


if __name__ == "__main__":
    main()
