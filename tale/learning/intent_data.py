"""The labelled messages from which the detection of intents is learned, and the users' corrections beside them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from tale.records import Action, Correction, Intent

LABELS: Final[tuple[Intent, ...]] = get_args(Intent)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
WORDS_FILE: Final = "intent_words.txt"
CORRECTION_WEIGHT: Final = 5.0  # of one correction, beside one labelled message
SHARE_OF_ONE_KEY: Final = 0.03  # of the weight of all labelled messages: what the corrections of one key may weigh
SHARE_OF_ALL_KEYS: Final = 0.1
LONGEST_CORRECTION: Final = 2_000  # characters


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled message; `voice` is whose hand wrote it, `template` the phrasing it is a variation of.

    `action` is what a control message orders; None for all others, and where that cannot be told.
    """

    text: str
    label: Intent
    voice: str
    template: str
    language: str
    action: Action | None = None


def data_folder() -> Path:
    """Where the labelled messages are: in the package as it is installed, or in the source tree."""
    installed = Path(__file__).parent / "data"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "data"


def read_examples(folder: Path) -> list[Example]:
    """The messages of all files of a folder, in a fixed order. Raises OSError, and ValueError for what is none."""
    return [example for path in sorted(folder.glob("*.jsonl")) for example in _examples_of(path)]


def _examples_of(path: Path) -> Iterable[Example]:
    for line in path.read_text(encoding="utf-8").splitlines():
        found: dict[str, Any] = json.loads(line)
        if found["label"] not in LABELS:
            raise ValueError(f"{path.name} holds the label {found['label']!r}; there are {', '.join(LABELS)}.")
        if (action := found.get("action")) not in (None, *ACTIONS):
            raise ValueError(f"{path.name} holds the action {action!r}; there are {', '.join(ACTIONS)}.")
        yield Example(found["text"], found["label"], path.stem, found["template"], found["language"], action)


def digest_of(folder: Path, corrections: Sequence[Correction]) -> str:
    """A fingerprint of all that is learned from: the files of the data folder, and corrections. Raises OSError."""
    hashed = hashlib.sha256()
    for path in (*sorted(folder.glob("intents*/*.jsonl")), folder / WORDS_FILE):
        hashed.update(path.read_bytes())
    for correction in corrections:
        hashed.update(json.dumps([correction.text, correction.label, correction.key_name]).encode())
    return hashed.hexdigest()


def weighed(corrections: Iterable[Correction], base_weight: float) -> list[tuple[Correction, float]]:
    """The corrections that count, and how much each weighs beside labelled messages that weigh `base_weight` in all.

    Of one key's corrections of the same message the newest counts. The corrections of one key share what one may
    weigh, and all share what all may: nobody can turn the detection round by sheer number.
    """
    newest: dict[tuple[str | None, str], Correction] = {}
    for correction in sorted(corrections, key=lambda each: each.created_at):
        if correction.label in LABELS and correction.text.strip() and len(correction.text) <= LONGEST_CORRECTION:
            newest[correction.key_name, correction.text.strip().casefold()] = correction
    of_key: defaultdict[str | None, list[Correction]] = defaultdict(list)
    for correction in newest.values():
        of_key[correction.key_name].append(correction)
    each = {key: min(CORRECTION_WEIGHT, SHARE_OF_ONE_KEY * base_weight / len(found)) for key, found in of_key.items()}
    total = sum(each[key] * len(found) for key, found in of_key.items())
    scale = min(1.0, SHARE_OF_ALL_KEYS * base_weight / total) if total else 1.0
    return [(correction, scale * each[key]) for key, found in of_key.items() for correction in found]
