"""HTML for a page that stands alone: everything is escaped unless it was made here."""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence

VOID = {"meta", "img", "br"}
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Html(str):
    """Text that is markup already; any other text is escaped where it is put in."""

    __slots__ = ()


NONE = Html('<span class="none">&ndash;</span>')

STYLE = """
:root { --ink: #1f2933; --muted: #66727f; --line: #e1e6eb; --soft: #f5f7f9; --blue: #0072b2; --red: #b84300; }
* { box-sizing: border-box; }
html { color-scheme: light; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, "Noto Sans",
  "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1060px; margin: 0 auto; padding: 40px 28px 72px; }
header { border-bottom: 3px solid var(--ink); padding-bottom: 22px; }
h1 { font-size: 32px; line-height: 1.2; margin: 4px 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; line-height: 1.3; margin: 46px 0 10px; padding-top: 2px; }
h3 { font-size: 15px; margin: 24px 0 6px; }
p { margin: 6px 0 12px; max-width: 76ch; }
.muted, .none { color: var(--muted); }
.small { font-size: 13px; }
.eyebrow { color: var(--muted); font-size: 13px; letter-spacing: .05em; margin: 0; }
.scores { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 22px 0 0; }
.score b { display: block; font-size: 44px; line-height: 1.1; font-weight: 650; letter-spacing: -0.02em; }
.score span { color: var(--muted); font-size: 13px; }
.score:first-child b { color: var(--blue); }
.notice { margin: 24px 0 0; padding: 12px 18px; background: #fff8ec; border-left: 4px solid #e69f00; }
.notice p { margin: 0; font-weight: 600; }
.notice ul { margin: 4px 0 0; padding-left: 20px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 6px 0 14px; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
thead th { color: var(--muted); font-size: 12.5px; font-weight: 600; border-bottom: 1.5px solid var(--ink);
  vertical-align: bottom; overflow-wrap: normal; }
.number { text-align: right; white-space: nowrap; }
.kind td { background: var(--soft); font-weight: 650; padding-left: 8px; }
tbody th { font-weight: 500; }
table.facts { width: auto; min-width: 60%; }
table.facts th { color: var(--muted); white-space: nowrap; padding-right: 28px; }
.bar { display: inline-block; width: 120px; height: 9px; margin-right: 10px; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--blue); }
.flag { display: inline-block; font-size: 11.5px; line-height: 1.5; padding: 0 7px; margin-left: 8px;
  border-radius: 9px; background: #fdf0d5; color: #7a4b00; white-space: nowrap; font-weight: 500; }
figure { margin: 10px 0 26px; break-inside: avoid; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--muted); font-size: 13px; margin-top: 4px; max-width: 76ch; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 26px 22px; }
.photo { font-size: 13px; break-inside: avoid; min-width: 0; }
.photo .frame { display: flex; align-items: center; justify-content: center; height: 220px;
  background: var(--soft); overflow: hidden; }
.photo .frame span { color: var(--muted); padding: 14px; text-align: center; overflow-wrap: anywhere; }
.photo img { display: block; max-width: 100%; max-height: 220px; }
.photo p { margin: 5px 0 0; overflow-wrap: anywhere; }
.photo .name { font-weight: 600; }
.said { color: var(--muted); }
.wrong { color: var(--red); font-weight: 600; }
.right { color: var(--ink); }
pre { background: var(--soft); padding: 12px 14px; overflow-x: auto; font: 13px/1.5 ui-monospace,
  SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--muted); }
@media print { body { font-size: 11pt; } main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  tr, .photo, .notice { break-inside: avoid; } thead { display: table-header-group; }
  details { display: none; } .photos { grid-template-columns: repeat(4, 1fr); gap: 12px; }
  .photo .frame, .photo img { max-height: 150px; }
  .wide, pre { overflow: visible; } .bar { width: 70px; } p.small { break-after: avoid; break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def text(value: object) -> Html:
    """Return `value` as markup: escaped, without control characters; markup stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(CONTROL.sub("\ufffd", str(value))))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Put parts one after the other."""
    return Html(text(between).join(text(part) for part in parts))


def element(name: str, /, *children: object, css: str = "", **attributes: object) -> Html:
    """Return one element; children and attributes are escaped unless they are markup already."""
    attributes = {"class": css, **attributes} if css else attributes
    shown = "".join(f' {key.replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], words: int = 1) -> Html:
    """Return a table whose first column names the row; the columns after the first `words` hold numbers.

    A row of one cell is a heading within the table.
    """
    body = []
    for row in rows:
        if len(row) == 1:
            body.append(element("tr", element("td", row[0], colspan=len(head)), css="kind"))
            continue
        cells = [element("th", row[0], scope="row")]
        cells += [
            element("td", cell, css="" if i < words else "number") for i, cell in enumerate(row[1:], start=1)
        ]
        body.append(element("tr", *cells))
    titles = [element("th", title, css="" if i < words else "number") for i, title in enumerate(head)]
    whole = element("table", element("thead", element("tr", *titles)), element("tbody", *body))
    return element("div", whole, css="wide")


def facts(rows: Iterable[tuple[str, object]]) -> Html:
    """Return a table of names and values."""
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
    return element("table", element("tbody", *body), css="facts")


def image(content: bytes, media_type: str, alt: str) -> Html:
    """Return an image that travels inside the page."""
    return element("img", src=f"data:{media_type};base64,{base64.b64encode(content).decode()}", alt=alt)


def page(title: str, *body: object, style: str = "") -> Html:
    """Return the whole page, with `style` added to the style of all pages.

    Its policy forbids scripts and anything from outside, whatever the content.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Html(STYLE + style)),
    )
    return Html(
        "<!doctype html>\n" + element("html", head, element("body", element("main", *body)), lang="en") + "\n"
    )


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def is_number(value: object) -> bool:
    """Tell whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, digits: int = 3) -> Html:
    """Return a number to so many digits; a dash where there is none."""
    return text(f"{value:,.{digits}f}") if is_number(value) else NONE


def integer(value: object) -> Html:
    """Return a whole number; a dash where there is none."""
    return number(value, 0)


def plain(value: object) -> str:
    """Return a value of a configuration as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def duration(seconds: object) -> str:
    """Return seconds as hours, minutes and seconds."""
    if not is_number(seconds):
        return plain(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def section(title: str, *parts: object) -> Html:
    """Return a titled section."""
    return element("section", element("h2", title), *parts)


def percent(part: int, whole: int) -> str:
    """Return a share in percent."""
    return f"{part / whole:.1%}" if whole else "0 %"
