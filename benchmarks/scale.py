"""Whether the time per photo grows with their number: each stage in a fresh process, on sets of three sizes.

`python -m benchmarks.scale [sizes=1000,10000,100000] [stages=explore,split,...] [processes=2]`
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.scale_sets import made_records, photo_set
from src.config import CONF, REPOSITORY
from src.errors import InputError, did_you_mean, leave

FOLDER = REPOSITORY / "outputs" / "bench" / "scale"
RESULTS = FOLDER.with_suffix(".json")
SIZES = (1_000, 10_000, 100_000)
GROWS = 1.3  # times the cost per photo at the size before: flagged
GROUP = r"data.group='^(A\d+)_'"
SMALL = ("preprocess.image_size=64", "data.num_workers=2")
HEADS = (
    "model.backbone=squeezenet1_1", "model.weights=null", "data.augment=null", "data.cache=features",
    "data.batch_size=64", "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.progress=null",
    *SMALL,
)  # fmt: skip


def _anew(out: Path) -> str:
    """Return the option that keeps what is read of the photos in the stage's own folder, empty at first."""
    return f"data.cache_dir={out / 'cache'}"


def _setup(photos: Path, out: Path, *overrides: str) -> list[str]:
    """Return the command that sets up the datamodule of a training."""
    given = [f"data.root={photos}", *overrides, *SMALL, _anew(out)]
    return ["-m", "benchmarks.scale", "setup", str(out), *given]


def explore(photos: Path, out: Path) -> list[str]:
    """Return the command that looks at the photos."""
    return ["scripts/explore.py", f"data.root={photos}", GROUP, f"output={out}"]


def split(photos: Path, out: Path) -> list[str]:
    """Return the command that reads folders of photos and splits them."""
    return _setup(photos, out, "model=dual_head", GROUP)


def table(photos: Path, out: Path) -> list[str]:
    """Return the command that reads a table of several rows per photo and splits the photos."""
    return _setup(photos, out, "model=multilabel", "data.group=asset")


def records(photos: Path, out: Path) -> list[str]:
    """Return the command that groups, splits and certifies records whose photos have been read."""
    return ["-m", "benchmarks.scale", "records", str(out), photos.name.rpartition("_")[2]]


def train(photos: Path, out: Path) -> list[str]:
    """Return the command that trains heads on a frozen backbone, and reports."""
    return ["scripts/train.py", f"data.root={photos}", GROUP, *HEADS, _anew(out), f"hydra.run.dir={out}"]


def predict(photos: Path, out: Path) -> list[str]:
    """Return the command that predicts the photos, by a model of the smallest set."""
    return ["scripts/predict.py", f"ckpt={FOLDER / 'model'}", f"images={photos}", "batch_size=64",
            "num_workers=2", "device=cpu", f"output={out / 'predictions.csv'}"]  # fmt: skip


STAGES: dict[str, Callable[[Path, Path], list[str]]] = {
    "explore": explore, "split": split, "table": table, "records": records, "train": train,
    "predict": predict,
}  # fmt: skip


def measure(stage: str, count: int, processes: int = 2) -> dict:
    """Run a stage on a set of `count` photos, and return what it cost.

    Returns:
        `stage, photos, cpu_s, wall_s, ms_per_photo` (of CPU), `peak_mb` (of its largest process), `load`,
        `written_mb`, and `page_mb` where it writes a page.

    Raises:
        InputError: for a size that cannot be drawn, or a stage that fails; the message names its log.
    """
    photos = FOLDER / f"made_{count}" if stage == "records" else photo_set(FOLDER, count, processes)
    if stage == "predict" and not (FOLDER / "model" / "metrics.json").is_file():
        shutil.rmtree(FOLDER / "model", ignore_errors=True)
        smallest = photo_set(FOLDER, SIZES[0], processes)
        _run(train(smallest, FOLDER / "model"), FOLDER / "model.log")
    out = FOLDER / f"{stage}_{count}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cost = _run(STAGES[stage](photos, out), FOLDER / f"{stage}_{count}.log")
    sizes = {path: path.stat().st_size / 2**20 for path in out.rglob("*") if path.is_file()}
    pages = [size for path, size in sizes.items() if path.suffix == ".html"]
    return {
        "stage": stage,
        "photos": count,
        **cost,
        "ms_per_photo": round(1000 * cost["cpu_s"] / count, 3),
        "written_mb": round(sum(sizes.values()), 1),
        **({"page_mb": round(max(pages), 1)} if pages else {}),
    }


def _run(command: Sequence[str], log: Path) -> dict:
    """Run Python in a fresh process, its output into a file; return what it and its workers cost."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, env=os.environ | threads, stdout=file, stderr=file
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{' '.join(command)} ended with exit code {process.returncode}: see {log}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.perf_counter() - begun, 2),
        "peak_mb": used.ru_maxrss // 1024,
        "load": round(os.getloadavg()[0], 2),
    }


def growth(rows: Sequence[dict]) -> tuple[float | None, float | None]:
    """Return how many times the cost per photo grew from the size before the largest one to the largest.

    Args:
        rows: of one stage, by size.

    Returns:
        the ratio as it is, and without what does not depend on the photos, such as imports: the cost of a
        further photo, from the differences of three sizes. None where there are too few sizes.
    """
    if len(rows) < 2:
        return None, None
    whole = rows[-1]["ms_per_photo"] / rows[-2]["ms_per_photo"]
    if len(rows) < 3:
        return whole, None
    seconds, photos = ([row[name] for row in rows[-3:]] for name in ("cpu_s", "photos"))
    before, last = ((seconds[i + 1] - seconds[i]) / (photos[i + 1] - photos[i]) for i in (0, 1))
    return whole, last / before if before > 0 else None


def report(rows: Sequence[dict]) -> str:
    """Return the rows as a Markdown table, a line per stage and size."""
    lines = [
        "| stage | photos | CPU s | wall s | CPU ms/photo | growth | further photo | peak MB | written MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        found = sorted((row for row in rows if row["stage"] == stage), key=lambda row: row["photos"])
        for i, row in enumerate(found):
            grown = growth(found) if i == len(found) - 1 else (None, None)
            said = ["" if g is None else f"**{g:.2f} grows**" if g > GROWS else f"{g:.2f}" for g in grown]
            page = f" (page {row['page_mb']})" if "page_mb" in row else ""
            lines.append(
                f"| {stage} | {row['photos']:,} | {row['cpu_s']:.1f} | {row['wall_s']:.1f} | "
                f"{row['ms_per_photo']:.2f} | {said[0]} | {said[1]} | {row['peak_mb']:,} | "
                f"{row['written_mb']:.1f}{page} |"
            )
    return "\n".join(lines)


def options(arguments: Sequence[str]) -> tuple[list[int], list[str], int]:
    """Return sizes, stages and processes from `sizes=1000,10000 stages=split processes=2`.

    Raises:
        InputError: for an unknown option or stage, or sizes that are no numbers.
    """
    given = {"sizes": ",".join(map(str, SIZES)), "stages": ",".join(STAGES), "processes": "2"}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in given:
            raise InputError(f"unknown option '{argument}': {did_you_mean(name, given)}")
        given[name] = value
    stages = given["stages"].split(",")
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"stages={stage}: {did_you_mean(stage, STAGES)}")
    for name in ("sizes", "processes"):
        if not all(part.isdecimal() and int(part) for part in given[name].split(",")):
            raise InputError(f"{name}={given[name]}: whole numbers above 0")
    return sorted({int(size) for size in given["sizes"].split(",")}), stages, int(given["processes"])


def main(arguments: Sequence[str]) -> None:
    """Measure, write `outputs/bench/scale.json` (figures of other calls stay in it) and print the table."""
    sizes, stages, processes = options(arguments)
    held = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    rows = {(row["stage"], row["photos"]): row for row in held}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        for count in sizes:
            print(f"{stage}: {count:,} photos", file=sys.stderr)
            rows[stage, count] = measure(stage, count, processes)
            RESULTS.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")
    print(report(list(rows.values())))
    print(f"\n{os.cpu_count()} cores; one thread and two loader processes; written: {RESULTS}")


def setup_alone(out: Path, overrides: Sequence[str]) -> None:
    """Read photos and labels, split, and write the split and its certificate, as a training does first."""
    from hydra import compose, initialize_config_dir

    from src import config
    from src.models.defaults import fill_defaults

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "output_dir=."])
    fill_defaults(cfg)
    datamodule = config.build(cfg.data)
    datamodule.setup()
    datamodule.write_metadata(out)
    _write_certificate(out, datamodule.certificate)


def records_alone(out: Path, count: int) -> None:
    """Group, split and certify records without photos."""
    from src.datamodules.certificate import certify
    from src.datamodules.groups import link_records, report_near_duplicates
    from src.datamodules.splits import data_hash, split_records

    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    linked = link_records(made_records(count), near_duplicates=4)
    report_near_duplicates(linked)
    splits = split_records(linked, shares, seed=1)
    certificate = certify(linked, splits, shares, near_duplicates=4)
    _write_certificate(out, {**certificate, "data_hash": data_hash(linked.records)})


def _write_certificate(out: Path, content: dict) -> None:
    """Write the certificate of a split."""
    (out / "split_certificate.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["setup"]:
            setup_alone(Path(sys.argv[2]), sys.argv[3:])
        elif sys.argv[1:2] == ["records"]:
            records_alone(Path(sys.argv[2]), int(sys.argv[3]))
        else:
            main(sys.argv[1:])
    except InputError as error:
        leave(2, str(error))
