"""What models and people wrote, as Markdown that shows it and does nothing else: no HTML, no images from elsewhere."""

import re
from typing import Final

from markdown_it import MarkdownIt

DIRECTIVE: Final = re.compile(r"^(\s*):::", re.MULTILINE)  # would open a block in which a fence ends early
CODE: Final = re.compile(r"(`+[^`]+`+)")
MONEY: Final = re.compile(r"(?<!\\)\$")


def shown(text: str) -> str:
    r"""The text with images taken at their word, and without formulas, for which amounts of money would be taken.

    Code between fences stays as it is; Streamlit shows HTML as text.

    >>> shown("![a](http://example.org/a.png) costs $5, not `$HOME`")
    '!\\[a](http://example.org/a.png) costs \\$5, not `$HOME`'
    >>> shown("```\nvec![1]\n```")
    '```\nvec![1]\n```'
    """
    text = DIRECTIVE.sub(r"\1\\:::", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = [_without_formulas(line) for line in text.split("\n")]
    fenced: set[int] = set()
    for token in MarkdownIt("commonmark").parse("\n".join(lines)):
        if token.type == "fence" and token.level == 0 and token.map:
            fenced |= set(range(*token.map))
    kept = text.split("\n")
    return "\n".join(
        kept[number] if number in fenced else line.replace("![", r"!\[") for number, line in enumerate(lines)
    )


def _without_formulas(line: str) -> str:
    parts = CODE.split(line)
    return "".join(part if CODE.fullmatch(part) else MONEY.sub(r"\\$", part) for part in parts)
