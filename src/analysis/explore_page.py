"""The page of an exploration: made from its figures alone, and from small pictures of the photos it lists."""

from collections.abc import Mapping, Sequence

from src.analysis.explore_summary import EVALUABLE, RARE
from src.analysis.markup import Html, element, facts, image, integer, join, number, page, section, table

Thumbnails = Mapping[str, tuple[bytes | None, str]]
PHOTO_COLUMNS = ("path", "other", "file")
WORDS = {
    "other_labels": "labels",
    "other_group": "group",
    "bright_end": "95% of pixels at or below",
    "white": "share blown out",
    "glare": "largest blown-out spot",
    "distance": "bits apart",
}
TASKS = {
    "multilabel": "any combination of labels per photo",
    "dual_head": "one label of each kind per photo",
    "multiclass": "one label per photo",
}
STYLE = """
.zero, .zero a { color: var(--muted); }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
table.lists td.number { padding-right: 22px; font-weight: 650; }
table.lists .zero td.number { font-weight: 400; }
table.lists th { white-space: nowrap; } table.lists td:last-child { color: var(--muted); font-size: 13px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(470px, 1fr)); gap: 26px 28px; }
.pairs .frame { height: 180px; } .pairs img { max-height: 180px; }
.rest { margin-top: 16px; }
.count { display: inline-block; min-width: 4em; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 4px 8px; }
.heat { width: auto; border-collapse: separate; border-spacing: 2px; font-size: 13px; }
.heat th, .heat td { border: 0; padding: 4px 8px; vertical-align: middle; }
.heat thead th { color: var(--ink); font-weight: 500; vertical-align: bottom; padding: 4px; }
.heat thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 190px;
  line-height: 1.15; overflow-wrap: anywhere; }
.heat tbody th { text-align: right; min-width: 170px; max-width: 300px; }
.heat td { min-width: 38px; text-align: center; }
.side { display: grid; grid-template-columns: 1fr 1fr; gap: 0 40px; align-items: start; }
@media (max-width: 760px) { .side { grid-template-columns: 1fr; } .pairs { grid-template-columns: 1fr; }
  table.lists th { white-space: normal; } }
@media print { .pairs { grid-template-columns: 1fr 1fr; } }
"""


def explore_page(summary: Mapping, thumbnails: Thumbnails, pictures: Mapping[str, bytes]) -> Html:
    """Return the page.

    Args:
        summary: what `summarise` gave; every figure on the page stands in it.
        thumbnails: `{path: (JPEG or None, why there is none)}` of the photos that the lists show.
        pictures: `{name: PNG}`.
    """
    lists = [_list(problem, summary, thumbnails) for problem in summary["problems"] if problem["count"]]
    body = [
        _header(summary),
        _notices(summary),
        _problems(summary),
        _labels(summary),
        *(_heat_map(pair) for pair in summary["pairs"]),
        _groups(summary),
        _photos(summary, pictures),
        *lists,
    ]
    return page(f"{summary['data']}: a look at the data", *(part for part in body if part), style=STYLE)


def _header(summary: Mapping) -> Html:
    """Name the data and give the large figures."""
    large = (
        element("div", element("b", integer(value)), element("span", name), css="score")
        for name, value in summary["totals"].items()
    )
    about = f"{summary['task']}: {TASKS[summary['task']]}"
    return element(
        "header",
        element("p", "Corbel · a look at the data", css="eyebrow"),
        element("h1", summary["data"]),
        element("p", about, css="muted"),
        element("div", *large, css="scores"),
    )


def _notices(summary: Mapping) -> Html:
    """Say loudly what has to be known first."""
    if not summary["notices"]:
        return Html("")
    notes = element("ul", *(element("li", note) for note in summary["notices"]))
    return element("div", element("p", "Know before you train"), notes, css="notice")


def _problems(summary: Mapping) -> Html:
    """Count every problem and say its rule; the lists follow below."""
    rows = []
    for problem in summary["problems"]:
        name, count = problem["title"], problem["count"]
        link = element("a", name, href=f"#{problem['name']}") if count else name
        cells = (
            element("th", link, scope="row"),
            element("td", integer(count), css="number"),
            element("td", problem["rule"]),
        )
        rows.append(element("tr", *cells, css="" if count else "zero"))
    titles = (element("th", "list"), element("th", "found", css="number"), element("th", "what stands in it"))
    head = element("thead", element("tr", *titles))
    whole = element("table", head, element("tbody", *rows), css="lists")
    return section("Problems", element("div", whole, css="wide"))


def _labels(summary: Mapping) -> Html:
    """Show photos and groups per label."""
    most = max((row["photos"] for rows in summary["labels"].values() for row in rows), default=1)
    rows: list[tuple] = []
    for kind, labels in summary["labels"].items():
        rows += [(kind,)] if len(summary["labels"]) > 1 else []
        for row in labels:
            flag = element("span", row["verdict"], css="flag") if row["verdict"] else ""
            width = f"width:{100 * row['photos'] / most:.1f}%"
            bar = element("span", element("i", style=width), css="bar", aria_hidden="true")
            count = join([bar, element("span", integer(row["photos"]), css="count")])
            rows.append((join([row["label"], flag]), count, f"{row['share']:.1%}", integer(row["groups"])))
    said = (
        f"Labelled photos that carry each label, and their groups. Rare: fewer than {RARE} photos. "
        f"Cannot be evaluated: fewer than {EVALUABLE} groups, so that the label cannot stand in training, "
        "validation and test."
    )
    parts = [element("p", said, css="muted small"), table(("label", "photos", "share", "groups"), rows)]
    counts = summary["labels_per_photo"]
    numbers = sorted({int(n) for per in counts.values() for n in per})
    rows = [(kind, *(integer(per.get(str(n), 0)) for n in numbers)) for kind, per in counts.items()]
    parts += [element("h3", "Labels per photo"), table(("photos with so many labels", *numbers), rows)]
    return section("Labels", *parts)


def _heat_map(pair: Mapping) -> Html:
    """Show how many photos carry each pair of labels, the more the darker."""
    most = max((count for counts in pair["photos"] for count in counts), default=0) or 1
    heads = [element("th", element("span", name), scope="col") for name in pair["columns"]]
    rows = []
    for name, counts in zip(pair["rows"], pair["photos"], strict=True):
        cells = [element("th", name, scope="row")]
        cells += [element("td", f"{n:,}" if n else "·", style=_shade(n / most)) for n in counts]
        rows.append(element("tr", *cells))
    head = element("thead", element("tr", element("th"), *heads))
    whole = element("table", head, element("tbody", *rows), css="heat")
    said = element("p", "Photos that carry both; a dot is none. The more, the darker.", css="muted small")
    title = f"{pair['down'].capitalize()} and {pair['across']}"
    return section(title, said, element("div", whole, css="wide"))


def _shade(share: float) -> str:
    """Return the colours of a cell: white text on dark, dark text on light, gray for nothing."""
    if not share:
        return "background:#f5f7f9;color:#9aa5b1"
    depth = share**0.5
    low, high = (222, 235, 246), (6, 54, 92)
    colour = tuple(round(a + (b - a) * depth) for a, b in zip(low, high, strict=True))
    return f"background:rgb{colour};color:{'#fff' if depth > 0.6 else '#1f2933'}".replace(" ", "")


def _groups(summary: Mapping) -> Html:
    """Show how the photos hang together."""
    groups = summary["groups"]
    largest = groups["largest"]
    rows = [
        ("named by", groups["by"] or "nothing: each photo is a group (data.group)"),
        ("groups as named", integer(groups["named"])),
        ("groups after joining duplicates", integer(groups["joined"])),
        ("largest group", f"{largest['name']}: {largest['photos']:,} photos ({largest['share']:.1%})"),
        ("near duplicates in different groups", integer(groups["near_duplicates_across"])),
    ]
    sizes = [(name, integer(count)) for name, count in groups["photos_per_group"].items()]
    said = (
        "Photos of one group stay in one split. Groups that share a photo, by its bytes or by its looks, are "
        "joined. Near duplicates in different groups mean that the same thing has two names."
    )
    sizes = table(("photos in a group", "groups"), sizes)
    return section(
        "Groups", element("p", said, css="muted small"), element("div", facts(rows), sizes, css="side")
    )


def _photos(summary: Mapping, pictures: Mapping[str, bytes]) -> Html:
    """Show sizes, shapes, brightness, formats and EXIF."""
    exif = summary["exif"]

    def counted(title: str, counts: Mapping[str, int]) -> Html:
        return table((title, "photos"), [(name, integer(count)) for name, count in counts.items()])

    def picture(name: str, caption: str) -> Html:
        shown = image(pictures[name], "image/png", caption)
        return element("figure", shown, element("figcaption", caption))

    said = (
        f"Of the {summary['photos']['readable']:,} labelled photos that can be read. Sizes are those of the "
        "upright photo."
    )
    taken = f"{exif['with_time']:,} photos, {exif['first']} to {exif['last']}"
    rows = [
        ("turned by EXIF", f"{exif['turned']:,} photos"),
        ("time", taken if exif["with_time"] else "no photo says it"),
        ("place (GPS)", f"present in {exif['with_place']:,} photos"),
    ]
    kinds = [
        table(
            (kind, "least", "quartile", "median", "quartile", "most"),
            [
                (
                    row["label"],
                    *(number(row[key], 1) for key in ("least", "quartile", "median", "quartile_3", "most")),
                )
                for row in labels
            ],
        )
        for kind, labels in summary["brightness"].items()
    ]
    return section(
        "Photos",
        element("p", said, css="muted small"),
        picture("sample_grid.png", "Some of the photos, of different labels."),
        element(
            "div",
            counted("size", summary["sizes"]),
            counted("aspect ratio", summary["aspect_ratios"]),
            css="side",
        ),
        element(
            "div",
            picture("image_dimensions.png", "The larger a dot, the more photos of that size."),
            picture("aspect_ratios.png", "Width over height."),
            css="side",
        ),
        element("div", counted("format", summary["formats"]), counted("camera", exif["cameras"]), css="side"),
        element("div", facts(rows), counted("EXIF orientation", exif["orientation"]), css="side"),
        element("h3", "Brightness"),
        picture("brightness_boxplot.png", "Mean gray level of the photos of each label."),
        element("details", element("summary", "The same as numbers"), *kinds),
    )


def _list(problem: Mapping, summary: Mapping, thumbnails: Thumbnails) -> Html:
    """Show the photos of one list, as far as the page holds them."""
    rows, file = problem["shown"], f"{problem['name']}.csv"
    more = problem["count"] - len(rows)
    link = element("a", file, href=file)
    rest = join([f"and {more:,} more in ", link, "."]) if more else join(["As a table: ", link, "."])
    if "other" in problem["columns"]:
        shown = element("div", *(_pair(row, summary, thumbnails) for row in rows), css="pairs")
    elif set(PHOTO_COLUMNS) & set(problem["columns"]):
        shown = element("div", *(_card(row, thumbnails) for row in rows), css="photos")
    else:
        shown = table(
            problem["columns"], [tuple(row.values()) for row in rows], words=len(problem["columns"])
        )
    title = element("h2", f"{problem['title']}: {problem['count']:,}")
    rule = element("p", problem["rule"], css="muted small")
    return element(
        "section", title, rule, shown, element("p", rest, css="muted small rest"), id=problem["name"]
    )


def _frame(path: str, thumbnails: Thumbnails) -> Html:
    """Show one photo, or why it cannot be shown."""
    content, reason = thumbnails[path]
    return element(
        "div", element("span", reason) if content is None else image(content, "image/jpeg", path), css="frame"
    )


def _line(name: str, value: object) -> Html:
    """Show one cell of a row with its name."""
    value = str(value).replace(";", ", ") if "labels" in name or name == "label" else value
    return element("p", element("span", f"{WORDS.get(name, name)} ", css="said"), value)


def _card(row: Mapping, thumbnails: Thumbnails) -> Html:
    """Show a row of one photo."""
    path = next(row[name] for name in PHOTO_COLUMNS if name in row)
    lines = [_line(name, value) for name, value in row.items() if name not in PHOTO_COLUMNS]
    return element("div", _frame(path, thumbnails), element("p", path, css="name"), *lines, css="photo")


def _pair(row: Mapping, summary: Mapping, thumbnails: Thumbnails) -> Html:
    """Show two photos side by side."""
    differ = row.get("labels") != row.get("other_labels")
    sides = [_frame(row[name], thumbnails) for name in ("path", "other")]
    sides += [element("p", row[name], css="name") for name in ("path", "other")]
    pairs: Sequence[tuple[str, str]] = [("labels", "other_labels")]
    pairs = [*pairs, ("group", "other_group")] if summary["groups"]["by"] else pairs
    for names in pairs:
        if names[0] in row:
            sides += [
                element("div", _line(name, row[name]), css="wrong" if differ and "labels" in name else "")
                for name in names
            ]
    lines = [_line(name, row[name]) for name in ("distance", "id") if name in row]
    return element("div", element("div", *sides, css="two"), *lines, css="photo")
