"""The words that say what a message asks for, by meaning and in many languages, and how they are found in a text."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LONGEST_PHRASE: Final = 5  # words
LONGEST_SIGN: Final = 10  # characters of a script without blanks
SHORTEST_STEM: Final = 3  # characters
MARKS: Final = frozenset({"code", "passage", "quote", "url", "listed", "prose", "file", "ref"})  # of material
UNKNOWN: Final = "_"

APOSTROPHES: Final = str.maketrans("\u2018\u2019`\u0131", "'''i")  # and the Turkish i without its dot
# Of a folded text. French and Italian words that lean on others are words of their own: l'ami, dis-moi.
LEANING: Final = "(?:moi|toi|le|la|les|lui|nous|vous|tu|il|elle|ce|je|en|y|me|te|lhe|se|nos)(?![\\w'])"
TOKEN: Final = re.compile(
    r"(?<!\w)(?:[cdjlmnst]|qu|un|dell|nell|all|sull|quest|quell|cos|dov|com)'(?=\w)"
    rf"|-{LEANING}|\w+(?:['-](?!{LEANING})\w+)*|\.{{2,}}|…|[^\w\s]"
)
UNSPACED: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff々ー]+")  # Chinese and Japanese
ACCENTS: Final = re.compile("[\u0300-\u036f]")

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Meanings:
    """`words` are whole phrases, `stems` the beginnings of words, `signs` pieces of scripts without blanks.

    `reasons` tell people what the presence of a meaning says; some say nothing by themselves.
    """

    words: dict[Names, Names] = field(default_factory=dict[Names, Names])
    stems: dict[str, Names] = field(default_factory=dict[str, Names])
    signs: dict[str, Names] = field(default_factory=dict[str, Names])
    reasons: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, tokens: Sequence[str]) -> list[str]:
        """The meanings of words in a row, the longest phrases first; _ for each word that has none."""
        found: list[str] = []
        position = 0
        while position < len(tokens):
            if UNSPACED.match(tokens[position]):
                found += self._of_run(tokens[position])
                position += 1
                continue
            length, names = self._longest(tokens, position)
            found += names or (_unmeant(tokens[position]),)
            position += length
        return found

    def _longest(self, tokens: Sequence[str], position: int) -> tuple[int, Names]:
        for length in range(min(LONGEST_PHRASE, len(tokens) - position), 0, -1):
            if names := self.words.get(tuple(tokens[position : position + length])):
                return length, names
        token = tokens[position]
        for length in range(len(token), SHORTEST_STEM - 1, -1):
            if names := self.stems.get(token[:length]):
                return 1, names
        return 1, ()

    def _of_run(self, run: str) -> list[str]:
        found: list[str] = []
        position = 0
        while position < len(run):
            for length in range(min(LONGEST_SIGN, len(run) - position), 0, -1):
                if names := self.signs.get(run[position : position + length]):
                    break
            else:
                length, names = 1, (UNKNOWN,)
            found += names
            position += length
        return found


def folded(text: str) -> str:
    """The text in small letters without accents; marks that are letters of their own, as in Hindi, stay."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(APOSTROPHES))
    return unicodedata.normalize("NFC", ACCENTS.sub("", plain))


def read_meanings(path: Path) -> Meanings:
    """The meanings of a file, whose first lines say how it is written. Raises OSError."""
    meanings, name = Meanings(), ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name, _, reason = line[1:].partition("]")
            meanings.reasons[name] = reason.strip()
        elif line and not line.startswith("#"):
            for entry in line.partition(": ")[2].split(", "):
                _add(meanings, name, folded(entry.strip()))
    return meanings


def _add(meanings: Meanings, name: str, entry: str) -> None:
    if UNSPACED.match(entry):
        kept, key = meanings.signs, entry
    elif entry.endswith("*"):
        kept, key = meanings.stems, entry[:-1]
    else:
        phrase = tuple(TOKEN.findall(entry))
        meanings.words[phrase] = _with(meanings.words.get(phrase, ()), name)
        return
    kept[key] = _with(kept.get(key, ()), name)


def _with(names: Names, name: str) -> Names:
    return names if name in names else (*names, name)


def _unmeant(token: str) -> str:
    """How a word without a meaning is told: numbers, signs and marks of material as such."""
    if token.isdigit():
        return "NUM"
    if not (token[0].isalnum() or token[0] == "_"):
        return token
    return token.upper() if token.startswith("z") and token[1:] in MARKS else UNKNOWN
