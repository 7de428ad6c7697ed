"""Draw the demo set: `python scripts/make_demo_data.py output=data/demo count=600`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from demo.make import make_demo
from src import config


@config.command("make_demo_data")
def main(cfg: DictConfig) -> None:
    """Draw the photos and say what was drawn."""
    summary = make_demo(
        cfg.output,
        count=cfg.count,
        width=cfg.width,
        height=cfg.height,
        seed=cfg.seed,
        missing=cfg.missing,
        wrong=cfg.wrong,
        distance=cfg.distance,
    )
    print(f"{cfg.output}: {summary}")


if __name__ == "__main__":
    main()
