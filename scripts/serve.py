"""Serve predictions over HTTP, with a page for inspectors: `python scripts/serve.py ckpt=RUN`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config
from src.errors import InputError


@config.command("serve")
def main(cfg: DictConfig) -> None:
    """Load the model, then answer requests until the process is told to end."""
    try:
        from src.serving.app import create_app
        from src.serving.settings import read_settings
        from src.serving.start import alone, bind, serve
    except ModuleNotFoundError as error:
        missing = f'{error.name} is not installed: python -m pip install -e ".[serve,onnx]"'
        raise InputError(missing) from error

    given = OmegaConf.to_container(cfg, resolve=True)
    del given["output_dir"]
    settings = read_settings(given)
    with alone(settings):
        socket = bind(settings.host, settings.port)
        app = create_app(settings)
        model = app.state.service.engine.model
        print(f"serving {model.path}\npage    http://{settings.host}:{settings.port}/", flush=True)
        serve(app, socket, settings)


if __name__ == "__main__":
    main()
