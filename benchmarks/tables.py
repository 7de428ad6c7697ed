"""What the harness measured, as a person reads it."""

import platform

from benchmarks.harness import disturbed

WORDS = {True: "yes", False: "NO", None: "no verdict"}
NAMES = {"cpu": "CPU", "wall": "wall", "cpu_s": "CPU s", "mb": "MB", "limit": "limit"}


def table(rows: list[dict]) -> str:
    """Return the rows as a Markdown table: medians (minimum-maximum), and the ratios of the medians."""
    limited = any("limit" in row for row in rows)
    lines = [
        "| work | goal | CPU s naive / ours | ratio CPU | wall s naive / ours | ratio wall |"
        + (" limit: wall s, ours / limit |" if limited else "")
        + " equal | met | peak MB naive / ours |"
    ]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for row in rows:
        cpu, wall = (
            " / ".join(_times(row[s][key]) for s in ("naive", "ours")) for key in ("cpu_s", "wall_s")
        )
        cells = [row["work"], row["goal"], cpu, f"{row['ratio_cpu']:g}x", wall, f"{row['ratio_wall']:g}x"]
        if limited:
            limit = row.get("limit")
            cells.append(f"{_times(limit['wall_s'])}, {row['ratio_limit']:g}x" if limit else "")
        met = ", ".join(f"{NAMES[goal]} {WORDS[is_met]}" for goal, is_met in row["met"].items())
        cells += [WORDS[row["equal"]], met, f"{row['naive']['peak_mb']} / {row['ours']['peak_mb']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(spread: dict) -> str:
    """Return a median and its spread."""
    return f"{spread['median']:.3g} ({spread['min']:.3g}-{spread['max']:.3g})"


def circumstances(rows: list[dict]) -> str:
    """Return what the figures depend on: cores, load, versions; and what the load makes of wall times."""
    row = rows[0]
    versions = {package: number for row in rows for package, number in row["versions"].items()}
    told = ", ".join(f"{package} {number}" for package, number in sorted(versions.items()))
    known = [row[side]["others"] for row in rows for side in ("naive", "ours")]
    others = [other for other in known if other is not None]
    threads = sorted({count for row in rows for count in row["threads"]})
    counts = " and ".join(str(count) for count in threads)
    said = (
        f"{row['cores']} cores, {counts} thread{'s' * (threads[-1] > 1)}, load before {row['load']:g}, "
        + (f"others kept up to {max(others):g} cores busy, " if others else "")
        + f"Python {platform.python_version()}, {told}"
    )
    wanted = any(goal in row["met"] for row in rows for goal in ("wall", "limit"))
    loud = any(map(disturbed, rows))
    return said + ("; more work than cores: no verdict on wall times" if wanted and loud else "")
