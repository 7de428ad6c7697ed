"""Compare two runs on the same test photos: `python scripts/compare.py runs=[A,B] gate=default`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("compare")
def main(cfg: DictConfig) -> None:
    """Write figures and changed decisions; with a gate, promote B (exit code 0) or refuse it (3)."""
    from src.analysis import comparison, gate
    from src.analysis.pages import make_output
    from src.files import user_path
    from src.overrides import shown

    pair = comparison.read_pair(cfg.runs)
    given = OmegaConf.to_container(cfg.gate) if OmegaConf.is_config(cfg.gate) else cfg.gate
    rules = [] if given is None else gate.read_rules(given, pair.labels)
    folder = user_path(cfg.output or cfg.output_dir)
    make_output(folder, [], comparison.FILES)
    rows, flipped = comparison.compare(pair), comparison.flips(pair)
    verdicts = gate.judge(pair, rules, rows) if rules else []
    comparison.write_tables(folder, rows, flipped, *([verdicts] if rules else ()))
    for name, run in zip("AB", cfg.runs, strict=True):
        print(f"{name}      {run}")
    print(comparison.summary_text(pair, rows, flipped))
    for verdict in verdicts:
        print(f"{verdict['verdict']:8} {verdict['reason']}")
    print(f"read   {shown(folder / 'comparison.csv')}, {shown(folder / 'flipped.csv')}")
    if rules:
        refused = sum(verdict["verdict"] == "refuse" for verdict in verdicts)
        print(
            f"refuse: {refused} of {len(rules)} rules are not met"
            if refused
            else "promote: all rules are met"
        )
        raise SystemExit(3 if refused else 0)


if __name__ == "__main__":
    main()
