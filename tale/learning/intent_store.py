"""Keeps a learned model in a file: a line that says what it was made of, then what was learned, as skops writes it."""

import json
import logging
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import sklearn
from skops.io import dumps, get_untrusted_types, loads
from skops.io.exceptions import UntrustedTypesFoundException

from tale.learning.intent_encoder import Encoder
from tale.learning.intent_words import Meanings
from tale.learning.intents import IntentModel

VERSION: Final = 3  # of what a model is made of; a model of another version is learned anew

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Header:
    """What a stored model was made of; one that differs from what is wanted is of no use.

    `encoder` names that of the messages' vectors, and is None where there is none.
    """

    digest: str
    encoder: str | None = None
    version: int = VERSION
    sklearn: str = sklearn.__version__


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model came out: when it was learned (Unix seconds), how long that took, from how much, and how good it is.

    `accuracy` is measured on messages that were kept out; None where there are none.
    """

    trained_at: float
    training_s: float
    messages: int
    corrections: int
    corrections_left_out: bool
    accuracy: float | None


def save(path: Path, model: IntentModel, header: Header, standing: Standing) -> None:
    """Write the file at once or not at all; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = json.dumps({"header": asdict(header), "standing": asdict(standing)})
    draft = path.with_suffix(".tmp")
    draft.write_bytes(first.encode() + b"\n" + dumps(model.to_parts()))
    draft.replace(path)


def load(
    path: Path, wanted: Header, meanings: Meanings, encoder: Encoder | None = None
) -> tuple[IntentModel, Standing] | None:
    """The model of the file; None where there is none, or one that was made of something else or is damaged."""
    try:
        with path.open("rb") as file:
            first, rest = file.readline(), file.read()
        told: dict[str, Any] = json.loads(first)
        if told["header"] != asdict(wanted):
            return None
        if untrusted := get_untrusted_types(data=rest):
            logger.warning("The stored model holds what does not belong there (%s).", ", ".join(untrusted))
            return None
        return IntentModel.from_parts(loads(rest), meanings, encoder), Standing(**told["standing"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, UntrustedTypesFoundException) as error:
        logger.warning("The stored model cannot be read (%s); it is learned anew.", error)
        return None
