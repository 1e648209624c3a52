"""Shows the results of a run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from logreg.reports.advice import next_commands
from logreg.reports.summary_schema import Summary
from logreg.reports.wording import loss_in_words, remarks, score_table, title, token_lines

MAX_TOKEN_LINES = 10
"""Largest number of classes whose most telling n-grams are printed."""


def print_summary(summary: Summary, console: Console) -> None:
    """Prints the scores of a run, the lines below them, its folder, and commands to type next."""
    header, rows = score_table(summary.metrics, summary.dataset.scored_rows)
    console.print(f"{title(summary)}: {loss_in_words(summary)}", markup=False, highlight=False)
    print_table(console, header, rows)
    for line in [*remarks(summary), *token_lines(summary, MAX_TOKEN_LINES)]:
        # in a terminal it is wrapped between words, in a pipe it is one line
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    console.print(summary.folder, markup=False, highlight=False, soft_wrap=True)
    console.print("next:")
    for command in next_commands(summary):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is left-aligned, the others right-aligned."""
    table = Table()
    for position, name in enumerate(header):
        table.add_column(escape(name), justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
