"""Export a model: `python scripts/export.py ckpt=RUN output=DIR formats=[onnx,int8,coreml,tflite]`."""

import io
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("export")
def main(cfg: DictConfig) -> None:
    """Write each format that agrees with the checkpoint; for one that does not, the exit code is 2."""
    from src.errors import InputError
    from src.files import make_folder, user_path
    from src.inference.export import FILES, Exporter, check_folder, check_formats
    from src.models.base import set_full_precision
    from src.overrides import shown, typed
    from src.runs import find_checkpoint

    warnings.simplefilter("ignore")  # of the exporters: the files are compared with the checkpoint
    set_full_precision()
    formats = list(dict.fromkeys(OmegaConf.to_container(cfg.formats)))
    check_formats(formats)
    checkpoint = find_checkpoint(cfg.ckpt)
    folder = user_path(cfg.output or cfg.output_dir)
    make_folder(folder)
    check_folder(folder, formats, checkpoint)
    exporter = Exporter(checkpoint, folder, cfg.root)
    written, refused, last = [], [], None
    for name in formats:
        try:
            with redirect_stdout(io.StringIO()):  # ONNX Runtime prints its progress
                written.append(exporter.write(name))
                last = last if name == "coreml" else name
        except InputError as error:
            refused.append(str(error))
    if exporter.compared:
        print(f"Checked on {exporter.checked.source}; in brackets: the checkpoint's own")
    if written:
        print("\n".join(written))
    if last:
        named = typed("ckpt", shown((folder / FILES[last]).absolute()))
        print(f"next  python scripts/predict.py {named} images=PHOTOS output=predictions.csv")
    if refused:
        raise InputError("; ".join(refused))


if __name__ == "__main__":
    main()
