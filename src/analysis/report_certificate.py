"""The split's certificate, as a person reads it: what holds, how well, and what comes closest to a leak."""

from collections.abc import Mapping
from pathlib import Path

from src.analysis.markup import Html, element, facts, image, join, percent, section, table
from src.analysis.report_tables import SPLIT_NAMES
from src.analysis.worst_errors import thumbnail
from src.runs import RunFolder


def certificate_section(run: RunFolder, root: Path | None) -> Html:
    """Return the section; empty for a run without a certificate."""
    found = run.certificate
    if not found:
        return Html("")
    rows = [
        ("groups in several splits", _groups(found)),
        ("copies and near duplicates in several splits", _duplicates(found)),
        ("label shares", _deviation(found, "deviation")),
        ("shares of pairs of labels", _deviation(found, "pair_deviation")),
        (
            "cannot be evaluated",
            "; ".join(f"{k} ({why})" for k, why in found["not_evaluable"].items()) or "none",
        ),
        ("hash of the split", found["hash"]),
    ]
    parts = [facts((name, value) for name, value in rows if value)]
    closest = found["closest"]
    if closest is None:
        parts.append(
            element(
                "p",
                "The closest photos of different splits were not looked for: too many, or no contrast.",
                css="muted small",
            )
        )
    else:
        said = (
            f"The two most alike photos in different splits differ in {closest['distance']} of 64 bits. "
            "If they show one asset, data.group does not hold it together."
        )
        cards = [_card(root, photo) for photo in closest["photos"]]
        parts += [element("p", said, css="muted small"), element("div", *cards, css="photos")]
    head = "of all photos" if found["given"] else "asked for"
    said = f"How each label is divided; in the head each split's share {head}."
    parts += [element("p", said, css="muted small"), _shares(found)]
    return section("Certificate of the split", *parts)


def _groups(found: Mapping) -> Html:
    """Say how many groups cross, and what the groups are."""
    near = found["near_duplicates"]
    own, joined = near["groups_of_the_user"], near["groups_joined"]
    total = f"{own:,}" if own == joined else f"{own:,}, joined to {joined:,} by copies and near duplicates"
    return _count(found["crossing"]["groups"], f"of {total}")


def _duplicates(found: Mapping) -> Html:
    """Say how many near duplicates cross, and what counts as one."""
    near, crossing = found["near_duplicates"], found["crossing"]
    if near["max_distance"] is None:
        return join(
            [_count(crossing["identical_photos"], "identical"), "; near duplicates were not looked for"]
        )
    said = f"of {near['pairs']:,} pairs (up to {near['max_distance']} of 64 bits of a perceptual hash apart)"
    blank = near["without_contrast"]
    said += f"; {blank:,} photos without contrast have no hash" if blank else ""
    return _count(crossing["near_duplicate_pairs"] or crossing["identical_photos"], said)


def _count(count: int, said: str) -> Html:
    """Show a number that should be 0."""
    return join([element("span", f"{count:,}", css="wrong" if count else ""), f" {said}"])


def _deviation(found: Mapping, key: str) -> str:
    """Say how far shares are from the asked ones."""
    apart = found[key]
    if not apart:
        return ""
    whole = "the split's share of the photos" if found["given"] else "the asked share"
    return (
        f"{100 * apart['mean']:.2f} points from {whole} in the mean, at worst {100 * apart['worst']:.2f} "
        f"({apart['worst_label']} in {SPLIT_NAMES[apart['worst_split']]})"
    )


def _shares(found: Mapping) -> Html:
    """Return the table of labels: groups, and the share of the label's photos in each split."""
    used = [split for split, photos in found["photos"].items() if photos]
    head = (
        "label",
        "groups",
        "photos",
        *(f"{SPLIT_NAMES[split]} {found['asked'][split]:.1%}" for split in used),
    )
    rows: list[tuple] = []
    kinds = dict.fromkeys(row["kind"] for row in found["labels"])
    for row in sorted(found["labels"], key=lambda row: list(kinds).index(row["kind"])):
        if len(kinds) > 1 and (row["kind"],) not in rows:
            rows.append((row["kind"],))
        total = sum(row[split] for split in found["photos"])
        shares = (f"{percent(row[split], total)} ({row[split]:,})" for split in used)
        rows.append((row["label"], f"{row['groups']:,}", f"{total:,}", *shares))
    return table(head, rows)


def _card(root: Path | None, photo: Mapping[str, str]) -> Html:
    """Show one photo and the split it is in."""
    content, reason = thumbnail(root, photo["path"])
    picture = element("span", reason) if content is None else image(content, "image/jpeg", photo["path"])
    frame = element("div", picture, css="frame")
    name = element("p", photo["path"], css="name")
    return element("div", frame, name, element("p", SPLIT_NAMES[photo["split"]], css="said"), css="photo")
