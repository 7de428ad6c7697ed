"""List suspected label errors, take the answers back: `python scripts/audit.py data.root=photos/`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config, overrides
from src.config_check import check_targets
from src.errors import InputError
from src.files import user_path


@config.command("audit")
def main(cfg: DictConfig) -> None:
    """Write the lists of suspects or, with `apply=`, a new table with the decisions on them."""
    from src.analysis import pages
    from src.analysis.audit import apply, lists
    from src.models import backbones, base

    base.set_full_precision()
    config.photos_only(cfg, "audit.py")
    check_targets(backbones.fill_defaults(cfg))
    if cfg.top < 0:
        raise InputError(f"top={cfg.top}: needs a number from 0 on")
    config.demo_root(cfg)
    datamodule = config.build(cfg.data)
    folder = user_path(cfg.output or cfg.output_dir)
    photos = user_path(getattr(datamodule, "images", None) or datamodule.root)
    pages.make_output(folder, [photos], apply.FILES if cfg.apply else lists.FILES)
    take_back(cfg, datamodule, folder) if cfg.apply else audit(cfg, datamodule, folder)


def audit(cfg: DictConfig, datamodule, folder: Path) -> None:
    """Judge every label by heads that were trained on other groups, and list the doubtful ones."""
    from src.analysis.audit import lists

    found = lists.find_label_errors(cfg, datamodule)
    reading = re.compile(r"experiment|model|data(\..+)?")
    back = {"apply": overrides.shown(folder.absolute() / lists.LIST)}
    command = overrides.command_like_this("audit", reading.fullmatch, back)
    lists.write_audit(found, datamodule, folder, cfg.top, command)
    page = overrides.shown(folder.absolute() / lists.PAGE)
    print(f"{lists.summary_text(found)}\npage  {page}\nthen  {command}")


def take_back(cfg: DictConfig, datamodule, folder: Path) -> None:
    """Write a new table with the decisions of `apply=`, and print the command that trains on it."""
    from src.analysis.audit import apply

    summary = apply.apply_audit(datamodule, datamodule.collect(), user_path(cfg.apply), folder)
    table, command = overrides.shown(folder.absolute() / apply.TABLE), apply.train_command(datamodule, folder)
    print(f"{apply.summary_text(summary)}\ntable {table}\ntrain {command}")


if __name__ == "__main__":
    main()
