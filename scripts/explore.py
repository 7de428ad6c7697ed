"""Look at photos and labels before training: `python scripts/explore.py data.root=photos/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config
from src.config_check import check_targets


@config.command("explore")
def main(cfg: DictConfig) -> None:
    """Read every photo once, then write the page, its figures, the lists and the pictures."""
    from src.analysis.explore.exploration import Exploration
    from src.analysis.explore.folder import PAGE, check_folder, write_exploration
    from src.datamodules.groups import assign_groups
    from src.datamodules.inspection import inspect_photos, sample_range
    from src.files import user_path
    from src.models.backbones import fill_defaults
    from src.overrides import shown

    check_targets(fill_defaults(cfg).data, "data")
    config.photos_only(cfg, "explore.py")
    config.demo_root(cfg)
    datamodule = config.build(cfg.data)
    folder = user_path(cfg.output or cfg.output_dir)
    source = datamodule.read()
    named = [user_path(cfg.data.root)] if cfg.data.get("root") else []
    check_folder(folder, [source.root, *named])
    records = assign_groups(source, datamodule.group)
    paths = [record.path for record in records]
    size, bits = datamodule.preprocess.size, datamodule.preprocess.sample_bits
    looks = inspect_photos(source.root, paths, size, datamodule.cache_dir, bits)
    source.findings += sample_range(paths, looks, bits)
    near = datamodule.near_duplicates
    data = Exploration(source, records, looks, cfg.task, datamodule.group, near, bits)
    summary = write_exploration(data, folder)
    found = [f"notes {len(source.findings)}"] if source.findings else []
    found += [f"{part['title'].lower()} {part['count']:,}" for part in summary["problems"] if part["count"]]
    print(f"{len(records):,} labelled photos, {summary['groups']['joined']:,} groups")
    for notice in [*map(str, source.findings), *summary["notices"]]:
        print(f"note   {notice}")
    print(f"found  {', '.join(found) or 'no problem'}")
    print(f"read   {shown(folder / PAGE)}")


if __name__ == "__main__":
    main()
