"""Work on queued predictions of a service on several machines: `python scripts/worker.py ckpt=model.onnx`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config
from src.errors import InputError


@config.command("worker")
def main(cfg: DictConfig) -> None:
    """Load the model, then work on jobs until the process is told to end."""
    try:
        from src.serving.celery_app import work
        from src.serving.settings import read_settings
    except ModuleNotFoundError as error:
        missing = f'{error.name} is not installed: python -m pip install -e ".[serve,cluster,onnx]"'
        raise InputError(missing) from error

    given = OmegaConf.to_container(cfg, resolve=True)
    del given["output_dir"]
    work(read_settings(given))


if __name__ == "__main__":
    main()
