"""The gate of a comparison: rules that say whether run B may take the place of run A."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from src.analysis.comparison import OF_LABEL, RESAMPLES, SEED, Pair, figures, group_sums
from src.errors import InputError, did_you_mean
from src.labels import LabelSpace

WHOLE = ("accuracy", "exact_match", "f1_macro")
RULE = {"metric": "", "label": "", "drop": None, "confidence": 0.9}


def read_rules(gate: Any, labels: LabelSpace) -> list[dict[str, Any]]:
    """Return the rules of a gate file, one for each label that they name.

    Raises:
        InputError: for anything but rules with a metric, the label that it needs, and numbers in their range.
    """
    rules = gate.get("rules") if isinstance(gate, Mapping) else None
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, Mapping) for rule in rules):
        raise InputError("gate: needs a list of rules, rules: [{metric: recall, label: Loose, drop: 0.02}]")
    found = []
    for place, given in enumerate(rules, 1):
        rule, where = RULE | dict(given), f"gate, rule {place}"
        if unknown := [str(key) for key in rule if key not in RULE]:
            raise InputError(f"{where}: unknown key '{unknown[0]}': {did_you_mean(unknown[0], RULE)}")
        for key, low, high in (("drop", 0, 1), ("confidence", 0.5, 0.999)):
            value = rule[key]
            if not isinstance(value, Real) or isinstance(value, bool) or not low <= value <= high:
                cure = f"needs a number from {low} to {high}, as 0.02 for 2 points"
                raise InputError(f"{where}: {key}={value}: {cure}")
        subjects = _subjects(str(rule["metric"]), str(rule["label"] or ""), labels, where)
        found += [rule | {"label": name} for name in subjects]
    return found


def _subjects(metric: str, label: str, labels: LabelSpace, where: str) -> Sequence[str]:
    """Return the labels that a rule is for, or the kind, or "" for the whole set."""
    if metric not in (*WHOLE, *OF_LABEL):
        raise InputError(f"{where}: unknown metric '{metric}': {did_you_mean(metric, (*WHOLE, *OF_LABEL))}")
    several = len(labels.kinds) > 1 and metric != "exact_match"
    choices = labels.names if metric in OF_LABEL else ("", *(labels.kinds if several else ()))
    if label == "*" and metric in OF_LABEL:
        return labels.names
    if label not in choices:
        fault = f"unknown label '{label}'" if label else "needs a label, or '*' for all"
        hint = (
            did_you_mean(label, filter(None, choices)) if any(choices) else "leave it out, for the whole set"
        )
        raise InputError(f"{where}: {metric}: {fault}: {hint}")
    return [label]


def judge(pair: Pair, rules: Sequence[Mapping[str, Any]], rows: Sequence[dict]) -> list[dict[str, Any]]:
    """Return a row for each rule: B is promoted where the upper bound of the figure's fall is within `drop`.

    Args:
        pair: the two runs.
        rules: from `read_rules`.
        rows: from `compare`.
    """
    falls = {of_label: _falls(pair, of_label) for of_label in {rule["metric"] in OF_LABEL for rule in rules}}
    by_figure = {(row["label"] or row["kind"], row["metric"]): row for row in rows}
    keys = [(rule["label"], rule["metric"]) for rule in rules]
    return [
        _verdict(rule, by_figure[key], falls[key[1] in OF_LABEL][key])
        for rule, key in zip(rules, keys, strict=True)
    ]


def _falls(pair: Pair, of_label: bool) -> dict[tuple, np.ndarray]:
    """Return draws of each figure's fall from A to B, with a made-up group that A has right and B wrong.

    The group is as large as the average one, for the figures of a label: the average one with positives.
    Weights are exponential: for a plain share, quantiles are then the exact bounds of Clopper and Pearson,
    1934. So a few positives without a loss do not prove that there is none.
    """
    runs = group_sums(pair)
    groups = len(runs[0]["support"])
    held = np.maximum((runs[0]["support"] > 0).sum(0), 1) if of_label else groups
    positives, decided, complete = (
        runs[0][name].sum(0) / count
        for name, count in (("support", held), ("decided", groups), ("complete", groups))
    )
    weights = np.random.default_rng(SEED).standard_exponential((RESAMPLES, groups + 1), dtype=np.float32)
    drawn = []
    for right, sums in zip((1, 0), runs, strict=True):
        made = {"hits": right * positives, "right": right * decided, "exact": right * complete}
        made |= {"said": positives, "support": positives, "decided": decided, "complete": complete}
        with_made = {name: np.vstack([value, made[name]]) for name, value in sums.items()}
        drawn.append(figures(pair, with_made, weights))
    return {key: values - drawn[1][key] for key, values in drawn[0].items()}


def _verdict(rule: Mapping[str, Any], row: Mapping[str, Any], falls: np.ndarray) -> dict[str, Any]:
    """Return the row of a rule, from the row of its figure and the draws of its fall."""
    drop, confidence, groups = rule["drop"], rule["confidence"], row["groups"]
    found = rule | {"support": row["support"], "groups": groups, "verdict": "refuse"}
    name = f"{rule['metric']} of {rule['label']}" if rule["label"] else rule["metric"]
    if "difference" not in row:
        return found | {"reason": f"{name}: no positives in the test split, so nothing is known of it"}
    fall, bound = 0.0 - row["difference"], float(np.quantile(falls, confidence))
    found |= {"fall": fall, "bound": bound}
    limit = f"{100 * bound:.1f} points at {100 * confidence:g} % confidence, {100 * drop:g} allowed"
    name += f" {row['a']:.4f} -> {row['b']:.4f}"
    if bound <= drop:
        return found | {"verdict": "promote", "reason": f"{name}: a fall of at most {limit}"}
    if fall > drop:
        return found | {"reason": f"{name}: a fall of {100 * fall:.1f} points, up to {limit}"}
    least = math.ceil(math.log(1 - confidence) / math.log(1 - drop)) if 0 < drop < 1 else 0
    cure = f"; it takes {least} groups even if nothing is lost" if groups < least else ""
    photos = "positives" if rule["metric"] in OF_LABEL else "photos"
    photos = f"{row['support']} {photos} in {groups} group{'s' * (groups > 1)}"
    return found | {"reason": f"{name}: too thin, {photos} do not rule out a fall of {limit}{cure}"}
