"""What changed since the run before: settings and figures of the newest earlier run on the same photos."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from src.analysis.comparison import compare, flips, read_pair
from src.errors import InputError
from src.files import read_json
from src.runs import RunFolder, finished_runs, read_run

OWN = ("output_dir", "resume")  # settings that every run has its own of


def run_before(run: RunFolder) -> RunFolder | None:
    """Return the newest run of the same task and data that had finished before this one; None without one."""
    own = run.path.resolve()
    outputs = next((folder.parent for folder in own.parents if folder.name == run.task), None)
    for folder in _earlier(outputs, own) if outputs and run.facts.get("data_hash") else ():
        try:
            facts = read_json(folder / "metrics.json").get("run") or {}
            if all(facts.get(key) == run.facts.get(key) for key in ("task", "data_hash")):
                return read_run(folder)
        except InputError:  # a broken run is not this one's fault
            continue
    return None


def _earlier(outputs: Path, own: Path) -> Iterator[Path]:
    written = (own / "metrics.json").stat().st_mtime_ns
    for folder in finished_runs(outputs):
        if folder != own and (folder / "metrics.json").stat().st_mtime_ns < written:
            yield folder


def changes(before: RunFolder, run: RunFolder) -> dict:
    """Return what differs: `settings` (name, before, now), and figures of the same test photos.

    `differences` are rows of `compare`, empty where `refused` says why the test photos do not allow it.
    """
    old, new = _settings(before), _settings(run)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = {"settings": [(name, old.get(name), new.get(name)) for name in names], "refused": ""}
    try:
        pair = read_pair([str(before.path), str(run.path.resolve())])
    except InputError as error:
        return found | {"differences": [], "refused": str(error)}
    rows = [row for row in compare(pair) if not row["label"] and "difference" in row]
    return found | {"differences": rows, "flips": len(flips(pair)), "same": len(pair.truth)}


def _settings(run: RunFolder) -> dict[str, object]:
    """Return the settings of a run, and its code and packages, by dotted name."""
    config = OmegaConf.to_container(run.config) if OmegaConf.is_dict(run.config) else {}
    code = {"code": run.facts.get("git"), "version": run.facts.get("versions")}
    return {name: value for name, value in _flat({**config, **code}) if name not in OWN}


def _flat(node: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested settings with their dotted names."""
    if not isinstance(node, dict) or not node:
        yield name, node
        return
    for key, value in node.items():
        yield from _flat(value, f"{name}.{key}" if name else str(key))
