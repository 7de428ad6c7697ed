"""Photos to a CSV by one process, by two shards and by two Ray actors: what each costs, start-up included."""

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.harness import BENCH, REPOSITORY, Work
from benchmarks.photos import drawn
from src.errors import InputError
from src.files import file_digest
from src.models.classifiers import MultiLabelClassifier
from src.parallel import cores

LABELS = {"component": ["Bolt", "Bracket"], "defect": ["Leaks", "Loose", "Missing"]}
HALF = max(1, cores() // 2)
CHILD_SUBREAPER = 36  # of prctl(2)


def check() -> None:
    """Refuse to start without Ray."""
    if not find_spec("ray"):
        raise InputError('needs the extra `ray`: python -m pip install -e ".[ray]"')


def given(count: int) -> list[str]:
    """Return the arguments of `predict.py` for that many small photos and an untrained model."""
    torch.manual_seed(0)
    preprocess = {"image_size": 64}
    model = MultiLabelClassifier(
        task="multilabel", labels=LABELS, preprocess=preprocess, backbone="squeezenet1_1", weights=None
    )
    content = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    folder = BENCH / "ray"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "model.ckpt")
    photos = "\n".join(["path", *map(str, drawn(160, 120, count, 256))])
    (folder / f"{count}.csv").write_text(photos, encoding="utf-8")
    out = folder / "predictions.csv"
    for file in (out, out.with_name(f".{out.name}.manifest.json")):
        file.unlink(missing_ok=True)
    ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1)  # so that Ray's processes, too, are waited for and counted
    return [f"ckpt={folder / 'model.ckpt'}", f"images={folder / f'{count}.csv'}", f"output={out}",
            "device=cpu", "probabilities=true", f"hydra.run.dir={folder}"]  # fmt: skip


def predicted(given: list[str], *calls: str) -> Path:
    """Call the script once for each of `calls`, at the same time; return the output."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "predict.py"), *given]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": REPOSITORY}
    begun = [subprocess.Popen([*command, *call.split()], **quiet) for call in calls]
    if codes := [process.wait() for process in begun if process.wait()]:
        raise SystemExit(f"error: predict.py {' | '.join(calls)} ended with exit code {codes[0]}")
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return Path(given[2].removeprefix("output="))


def described(given: list[str], output: Path) -> dict[str, str]:
    """Return the digest of the output."""
    return {"sha256": file_digest(output)[:12]}


WORKS = [
    Work(
        f"{count} photos 160 x 120 to a CSV", partial(given, count),
        {
            "ours": lambda given: predicted(given, f"num_workers={2 * HALF}"),
            "2 shards": lambda given: predicted(given, *(f"num_workers={HALF} shard={n}/2" for n in (1, 2))),
            "ray, 2 actors": lambda given: predicted(given, f"num_workers={HALF} engine=ray"),
        },
        lambda results: len({result["sha256"] for result in results.values()}) == 1, described, rounds=3,
    )
    for count in (1024, 4096)
]  # fmt: skip
