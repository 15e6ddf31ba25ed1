"""Draws the last screen of a terminal recording (asciinema, version 2) as an SVG, for the README.

pip install asciinema pyte
asciinema rec --cols 100 --rows 40 -c 'tale submit "Write a haiku"' run.cast
python scripts/picture.py run.cast docs/submit.svg --title 'tale submit'
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

PLAIN = "default"
BRIGHT = {"brown": "yellow", "brightbrown": "bright_yellow"}  # pyte's names for what everybody else calls yellow


def screen_of(cast: Path) -> pyte.Screen:
    """The screen as it stands at the end of the recording."""
    header, *events = [json.loads(line) for line in cast.read_text(encoding="utf-8").splitlines()]
    screen = pyte.Screen(header["width"], header["height"])
    stream = pyte.Stream(screen)
    for _, kind, data in events:
        if kind == "o":
            stream.feed(data)
    return screen


def colour_of(name: str) -> str | None:
    """A colour as Rich names it; None for the terminal's own."""
    if name == PLAIN:
        return None
    if len(name) == len("rrggbb") and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return BRIGHT.get(name, name.replace("bright", "bright_"))


def rows_of(screen: pyte.Screen) -> list[Text]:
    """The rows up to the last that shows anything."""
    rows: list[Text] = []
    for number in range(screen.lines):
        row = Text()
        for column in range(screen.columns):
            cell = screen.buffer[number][column]
            style = Style(color=colour_of(cell.fg), bold=cell.bold, italic=cell.italics, underline=cell.underscore)
            row.append(cell.data, style)
        row.rstrip()
        rows.append(row)
    while rows and not rows[-1].plain:
        rows.pop()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cast", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--title", default="tale")
    given = parser.parse_args(arguments)
    screen = screen_of(given.cast)
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=screen.columns, record=True, file=nowhere, force_terminal=True)
        for row in rows_of(screen):
            console.print(row, no_wrap=True)
    given.svg.write_text(console.export_svg(title=given.title, theme=DIMMED_MONOKAI), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
