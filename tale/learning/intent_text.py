"""Takes a message apart for learning: its words, its letters, and the meanings of its words; material is told apart."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tale.learning.intent_words import TOKEN, UNKNOWN, Meanings, folded

HEAD_CHARACTERS: Final = 1_500
TAIL_CHARACTERS: Final = 700
ASKED_CHARACTERS: Final = 400  # of what is asked, from its beginning and from its end, whose letters count
PASSAGE_CHARACTERS: Final = 32  # from here on quoted words are a passage
MANY_LINES: Final = 3  # in more lines than these, those in the middle are material
SIZES: Final = (1, 2, 3, 5, 8, 13, 21, 40)  # words
MANY_SENTENCES: Final = 5

FENCED: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
QUOTED: Final = re.compile(
    r"\"[^\"\n]{2,}\"|“[^”\n]{2,}”|„[^“”\n]{2,}[“”]|«[^»\n]{2,}»|「[^」\n]{2,}」|『[^』\n]{2,}』"
    r"|(?<!\w)['‘][^'’\n]{12,}['’](?!\w)"  # noqa: RUF001 - these are the quotation marks that people type
)
URL: Final = re.compile(r"https?://\S+|\bwww\.\S+")
FILE: Final = re.compile(
    r"(?<![\w.])(?:[\w~.-]*/)*[\w-]+(?:\.[\w-]+)*\.(?:py|txt|csv|tsv|xlsx?|docx?|odt|pdf|md|jsx?|tsx?|go|rs|sql|json"
    r"|ya?ml|log|sh|html?|css|java|cpp|cc|c|h|png|jpe?g|svg|ipynb|pptx?|xml|toml|ini|conf|cfg|php|rb|kt|zip|tex|mp3|mp4"
    r"|env|parquet|db)\b|(?<!\w)~?(?:/[\w.-]+){2,}",
    re.IGNORECASE,
)
REFERENCE: Final = re.compile(r"#\s?\d+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){0,3}[0-9a-f-]*\b(?=.*\d)|№\s?\d+")
CODE_LINE: Final = re.compile(
    r"^\s*(?:def |class \w+|import |from \w+ import|function\b|const |let |var |return\b|public |private |#include|fn "
    r"|func |SELECT |select .* from |INSERT |UPDATE \w+ SET|CREATE |DELETE FROM|WHERE |GROUP BY|ORDER BY|FROM \w"
    r"|LEFT JOIN|JOIN |HAVING |for .*[:{]$|if .*[:{]$|while .*[:{]$|else\b.*[:{]|try:|except|print\(|\}|\{|</?\w+|@\w"
    r"|\$ |>>> |//|/\*|\* |[-+]{3} |@@ |Traceback|File \"|\w*(?:Error|Exception)\b.*:|at [\w.$]+\("
    r"|\[?\d{2,4}[-:./]\d{2}[-:. ]|\[\d|(?:INFO|WARN|ERROR|DEBUG)\b)"
    r"|[;{]\s*$|=>|\b\w+\([^)]*\)\s*[;{:]|\w+\.\w+\(|==|!=|\w\s=\s\S|\|.*\|"
)
LISTED_LINE: Final = re.compile(
    r"^\s*(?:[-–—•*+]|\d{1,2}[.)]|[A-Z][.:)])\s|^[^,\n]*(?:,[^,\n ][^,\n]*){2,}$|\t|^\w+\s?[:-]\s?\d"  # noqa: RUF001 - dashes as people type them
)
SENTENCE_END: Final = re.compile(r"(?<=[.!?;。！？；।…])\s*|\s+[–—]+\s+|——|\n+")  # noqa: RUF001 - signs of all languages
SAME_SIGNS: Final = {"？": "?", "！": "!", "：": ":", "...": "…", "，": ","}  # noqa: RUF001 - likewise
ENDS: Final = (".", "!", "?", "。", "！", "？", "…", "।")  # noqa: RUF001 - likewise


@dataclass(frozen=True, slots=True)
class Taken:
    """A message taken apart: what is asked, with a mark for each piece of material, and what marks there are."""

    asked: str
    marks: frozenset[str]


def streams_of(text: str, meanings: Meanings) -> dict[str, str]:
    """What is learned from, as words between blanks, by kind: words, letters, meanings, and shape."""
    taken = taken_apart(text)
    asked = folded(taken.asked)
    sentences = [part for part in SENTENCE_END.split(asked) if part and part.strip()]
    sequences = [_sequence(sentence, meanings) for sentence in sentences]
    whole = [name for sequence in sequences for name in (*sequence, "|")]
    words = [_marked(token, taken.marks) for token in TOKEN.findall(asked)]
    ends = f"{asked[:ASKED_CHARACTERS]} {asked[-ASKED_CHARACTERS:]}"
    return {
        "words": " ".join(words),
        "letters": asked if len(asked) <= 2 * ASKED_CHARACTERS else ends,
        "meanings": " ".join(["^", *whole, "$"]),
        "shape": " ".join(_shape(text, taken, len(sentences), words)),
    }


def taken_apart(text: str) -> Taken:
    """Tell what is asked from the material that comes with it."""
    text = "".join(sign if sign.isprintable() or sign in "\n\t" else " " for sign in shortened(text))
    marks: set[str] = set()

    def mark(name: str) -> str:
        marks.add(name)
        return f" z{name} "

    text = FENCED.sub(lambda _: mark("code"), text)
    text = QUOTED.sub(lambda found: mark("passage" if len(found[0]) > PASSAGE_CHARACTERS else "quote"), text)
    text = URL.sub(lambda _: mark("url"), text)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        lines = _without_material(lines, mark)
    elif lines and CODE_LINE.search(lines[0]):
        marks.add("coded")
    text = FILE.sub(lambda _: mark("file"), "\n".join(lines))
    text = REFERENCE.sub(lambda _: mark("ref"), text)
    return Taken(text, frozenset(marks))


def shortened(text: str) -> str:
    """The beginning and the end of a long message; what is asked stands there."""
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}"


def _without_material(lines: Sequence[str], mark: Callable[[str], str]) -> list[str]:
    """The lines with one mark in place of code, of lists and data, and of what stands in the middle of many lines."""
    kept: list[str] = []
    for number, line in enumerate(lines):
        kind = "code" if CODE_LINE.search(line) else "listed" if LISTED_LINE.search(line) else ""
        if not kind and len(lines) > MANY_LINES and 0 < number < len(lines) - 1:
            kind = "prose"
        piece = mark(kind) if kind else line
        if not kind or kept[-1:] != [piece]:
            kept.append(piece)
    return kept


def _sequence(sentence: str, meanings: Meanings) -> list[str]:
    """The meanings of a sentence; several unknown words in a row count as two."""
    found: list[str] = []
    for token in meanings.of(TOKEN.findall(sentence)):
        if token == UNKNOWN and found and found[-1].startswith(UNKNOWN):
            found[-1] = UNKNOWN * 2
        else:
            found.append(SAME_SIGNS.get(token, token))
    return found


def _marked(token: str, marks: frozenset[str]) -> str:
    return f"Z{token[1:]}" if token[0] == "z" and token[1:] in marks else token


def _shape(text: str, taken: Taken, sentences: int, words: Sequence[str]) -> list[str]:
    spoken = sum(word[0].isalnum() for word in words)
    size = next((f"words<={limit}" for limit in SIZES if spoken <= limit), "words>40")
    asked = taken.asked.rstrip()
    letters = [sign for sign in text if sign.isalpha()]
    asks = asked.endswith(("?", "？"))  # noqa: RUF001 - the sign of Chinese and Japanese
    said = {
        "asks": asks,
        "asks-within": not asks and any(sign in asked for sign in "?？"),  # noqa: RUF001 - likewise
        "colon-at-end": asked.endswith((":", "：")),  # noqa: RUF001 - likewise
        "wordless": not spoken,
        "unended": not asked.endswith(ENDS),
        "shouted": bool(letters) and all(sign.isupper() for sign in letters),
        "pictures": any(unicodedata.category(sign) == "So" for sign in text),
    }
    marks = [f"has:{mark}" for mark in sorted(taken.marks)]
    return [
        size,
        f"sentences={min(sentences, MANY_SENTENCES)}",
        *marks,
        *(name for name, holds in said.items() if holds),
    ]
