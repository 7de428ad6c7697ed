"""Export a model: `python scripts/export.py ckpt=RUN output=DIR formats=[onnx,int8,torch]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("export")
def main(cfg: DictConfig) -> None:
    """Write each format that agrees with the checkpoint; for one that does not, the exit code is 2."""
    from src.analysis.run_folder import make_folder
    from src.errors import InputError
    from src.files import user_path
    from src.inference.export import Exporter, check_folder, check_formats, exports_table
    from src.models import find_checkpoint
    from src.overrides import shown, typed

    formats = list(dict.fromkeys(OmegaConf.to_container(cfg.formats)))
    check_formats(formats)
    checkpoint = find_checkpoint(cfg.ckpt)
    folder = user_path(cfg.output or cfg.output_dir)
    make_folder(folder)
    check_folder(folder, formats, checkpoint)
    exporter = Exporter(checkpoint, folder, cfg.root)
    written, refused = [], []
    for name in formats:
        try:
            written.append(exporter.write(name))
        except InputError as error:
            refused.append(str(error))
    if written:
        print(f"Checked on {exporter.checked.source}; in brackets: the checkpoint's own")
        print(exports_table(written))
    runnable = [shown(export.file.absolute()) for export in written if export.file.suffix == ".onnx"]
    if runnable:
        named = typed("ckpt", runnable[-1])
        print(f"next  python scripts/predict.py {named} images=PHOTOS output=predictions.csv")
    if refused:
        raise InputError("; ".join(refused))


if __name__ == "__main__":
    main()
