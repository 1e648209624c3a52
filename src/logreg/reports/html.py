"""report.html: the whole report in one file, with its pictures inside."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:not(.r) { overflow-wrap: break-word; max-width: 20rem } h1, p, li, figcaption { overflow-wrap: anywhere }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start }
figure { margin: 0; flex: 1 1 24rem; min-width: min(24rem, 100%); max-width: 100% }
img { max-width: 100%; height: auto } figcaption { color: #555 }
@media (max-width: 30rem) { body { font-size: 13px } th, td { padding-right: .4rem } td:not(.r) { max-width: 9rem } }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark } body { color: #ddd; background: #181a1b } h2 { border-color: #555 }
  th, td { border-color: #444 } code { background: #2b2e30 } figcaption { color: #aaa } img { border-radius: 4px }
}
@media print { body { max-width: none; margin: 0 } figure, tr { break-inside: avoid } }
"""


CAPTIONS = {
    "probability": "Probability against the one feature, with the train rows",
    "coefficients": "Coefficients: positive ones raise the probability of a class, negative ones lower it",
    "odds_ratios": "Odds ratios per standard deviation with their intervals; at 1 a feature makes no difference",
    "binned_residuals": "Binned residuals: about 95 % lie within the band where the logit is linear in the column",
    "influence": "Influence of single rows: leverage and residual; the area of a point is Cook's distance",
    "loss": "Loss over the passes of the training, with the certified gap to the optimum",
    "path": "Loss and accuracy against the strength of the penalty, with the chosen one",
    "coefficient_paths": "Coefficients against the strength of the penalty, with the names of the largest",
    "reliability": "Reliability: of the rows with predicted probability p, a fraction p should be positive or right",
    "confusion": "Confusion matrix: predicted against true classes",
    "roc": "ROC, and precision against recall",
    "mistakes": "Most confident mistakes",
}
"""Caption of each picture, by the name of its file."""


def as_html(folder: str, markdown: str, figures: Mapping[str, Path]) -> str:
    """The report as a page.

    Args:
        folder: The run folder.
        markdown: report.md.
        figures: File of each picture, by its name in report.md.
    """
    lines = markdown.splitlines()
    title = html.escape(lines[0].removeprefix("# "))
    body = "\n".join(_blocks(lines, figures))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>logreg: {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f"<p>Made by logreg in <code>{html.escape(folder)}</code>.</p>\n</body>\n</html>\n"
    )


def _blocks(lines: Sequence[str], figures: Mapping[str, Path]) -> Iterator[str]:
    """Converts the part of Markdown that reports use: headings, tables, lists, pictures, paragraphs."""
    place = 0
    while place < len(lines):
        line, end = lines[place], place + 1
        kind = line[:2] if line.startswith(("- ", "![")) else line[:1]
        while (
            kind in ("- ", "|", "![") and end < len(lines) and (lines[end].startswith(kind) or _gap(lines, end, kind))
        ):
            end += 1
        part, place = [each for each in lines[place:end] if each], end
        if not part:
            continue
        if kind == "#":
            level = len(line) - len(line.lstrip("#"))
            yield f"<h{level}>{_inline(line.lstrip('# '))}</h{level}>"
        elif kind == "|":
            yield _table(part)
        elif kind == "- ":
            yield "<ul>" + "".join(f"<li>{_inline(item[2:])}</li>" for item in part) + "</ul>"
        elif kind == "![":
            yield '<div class="pictures">' + "".join(_picture(item, figures) for item in part) + "</div>"
        else:
            yield f"<p>{_inline(line)}</p>"


def _gap(lines: Sequence[str], place: int, kind: str) -> bool:
    """Whether an empty line stands between two pictures."""
    return kind == "![" and not lines[place] and place + 1 < len(lines) and lines[place + 1].startswith(kind)


def _table(lines: Sequence[str]) -> str:
    header, rule, *rows = (
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines
    )
    right = [cell.endswith(":") for cell in rule]

    def row(cells: Sequence[str], tag: str) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=r' if is_right else ''}>{_inline(cell)}</{tag}>"
                for cell, is_right in zip(cells, right, strict=False)
            )
            + "</tr>"
        )

    return "<table>" + row(header, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _picture(line: str, figures: Mapping[str, Path]) -> str:
    found = re.fullmatch(r"!\[(.*)\]\(figures/(.*)\)", line)
    assert found is not None
    name, file = found.groups()
    data = base64.b64encode(figures[file].read_bytes()).decode()
    caption = html.escape(CAPTIONS.get(name, name))
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _inline(text: str) -> str:
    parts = text.split("`")
    return "".join(
        f"<code>{html.escape(part)}</code>" if number % 2 else html.escape(part) for number, part in enumerate(parts)
    )
