"""Text from traces, models and servers, made safe to print.

A terminal obeys escape sequences: a trace could hide lines, change the window title or write to the clipboard. Control
characters other than newline and tab, marks that reorder text, and lone surrogates become U+FFFD. Tables also read
`[red]` as a colour and `[/]` as an error: `cell` escapes brackets.
"""

from __future__ import annotations

import logging
import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text without what a terminal would obey.

    >>> printable("7\\x1b[2J\\r\\n")
    '7\\ufffd[2J\\n'
    """
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def cell(text: str) -> str:
    """The text for a rich table, where it stands for itself.

    >>> cell("[red]7")
    '\\\\[red]7'
    """
    from rich.markup import escape

    return escape(printable(text))


class PrintableFormatter(logging.Formatter):
    """Log lines name traces and quote servers: they are made printable as a whole."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
