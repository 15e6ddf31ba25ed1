"""Learns the detection of intents in a process of its own, of low priority, and leaves the result in a file.

`python -m tale.learning.intent_training FILE FOLDER [--without-encoder]` learns from the data of the folder and from
the users' corrections, which it reads as JSON on standard input. It exits with 0 when the file holds what was learned.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tale.background import give_way
from tale.learning.intent_data import LABELS, WORDS_FILE, Example, digest_of, read_examples, weighed
from tale.learning.intent_encoder import Encoder, read_encoder
from tale.learning.intent_store import Header, Standing, save
from tale.learning.intent_words import Meanings, read_meanings
from tale.learning.intents import IntentModel
from tale.records import Correction

WORTHWHILE: Final = 0.01  # share of unseen messages that corrections may cost; where they cost more, they are left out


def train(path: Path, corrections: Sequence[Correction], *, folder: Path, encoder: Encoder | None = None) -> Standing:
    """Learn from a data folder and corrections, and store it at `path`; takes some seconds of work. Raises OSError.

    What was learned with corrections is used only where it does as well as without, on messages kept out of both.
    """
    began = time.perf_counter()
    examples, unseen = read_examples(folder / "intents"), read_examples(folder / "intents_unseen")
    meanings = read_meanings(folder / WORDS_FILE)
    model = trained(examples, meanings, corrections, encoder=encoder)
    accuracy = accuracy_of(model, unseen)
    left_out = False
    if corrections:
        plain = trained(examples, meanings, encoder=encoder)
        plain_accuracy = accuracy_of(plain, unseen)
        if left_out := (plain_accuracy or 0.0) - (accuracy or 0.0) > WORTHWHILE:
            model, accuracy = plain, plain_accuracy
    standing = Standing(
        trained_at=time.time(),
        training_s=round(time.perf_counter() - began, 3),
        messages=len(examples),
        corrections=len(corrections),
        corrections_left_out=left_out,
        accuracy=accuracy,
    )
    save(path, model, Header(digest_of(folder, corrections), encoder.name if encoder else None), standing)
    return standing


def trained(
    examples: Sequence[Example],
    meanings: Meanings,
    corrections: Sequence[Correction] = (),
    *,
    encoder: Encoder | None = None,
) -> IntentModel:
    """A model of labelled messages and corrections."""
    added = weighed(corrections, float(len(examples)))
    return IntentModel.trained(
        [*(each.text for each in examples), *(correction.text for correction, _ in added)],
        [*(each.label for each in examples), *(correction.label for correction, _ in added)],
        groups=[*(f"{each.voice}/{each.template}" for each in examples), *(each.id for each, _ in added)],
        meanings=meanings,
        counts=[1.0] * len(examples) + [weight for _, weight in added],
        actions=[each.action for each in examples],
        encoder=encoder,
    )


def accuracy_of(model: IntentModel, examples: Sequence[Example]) -> float | None:
    """The share of messages whose label the model tells; None where there are none."""
    if not examples:
        return None
    best = model.probabilities([each.text for each in examples]).argmax(axis=1)
    right = sum(LABELS[int(index)] == each.label for index, each in zip(best, examples, strict=True))
    return round(right / len(examples), 4)


def main() -> int:
    """Entry of the process."""
    give_way()
    told: list[dict[str, Any]] = json.load(sys.stdin)
    path, folder = map(Path, sys.argv[1:3])
    encoder = None if sys.argv[3:] else read_encoder()
    train(path, [Correction(**each) for each in told], folder=folder, encoder=encoder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
