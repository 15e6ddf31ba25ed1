"""Learned models as bytes and back: a line that says what they are, then skops (never pickle, which runs code)."""

import json
import zipfile
from typing import Any, Final, TypeVar

import sklearn
from skops.io import dumps, get_untrusted_types, loads
from skops.io.exceptions import UntrustedTypesFoundException

from tale.exceptions import ModelException

MAGIC: Final = "tale-model"
VERSION: Final = 5  # of what the models are made of; raise it when an attribute is added, dropped or renamed
TRUSTED_TYPES: Final = frozenset(
    f"tale.learning.{name}"
    for name in (
        *("token_budget.TokenBudgetModel", "router.SuccessRouter"),
        *("lengths.LengthModel", "lengths.Outlook", "success.OutcomeHeads", "conformal.Scores"),
        *("text_ensemble.TextEnsemble", "text_methods.TreeMethod", "text_methods.WordMethod"),
        *("text_methods.KernelMethod", "text_methods.KindMethod", "forest.Forest", "encoding.Encoder"),
        *("lexical.Lexicon", "neighbours.History"),
    )
) | {"scipy.sparse._csr.csr_matrix"}
SKLEARN: Final = sklearn.__version__

Learned = TypeVar("Learned")


def to_bytes(model: object) -> bytes:
    """The model as bytes, with a first line that names its type and what wrote it."""
    header = {"magic": MAGIC, "version": VERSION, "sklearn": SKLEARN, "type": type(model).__name__}
    return json.dumps(header).encode() + b"\n" + dumps(model)


def from_bytes(data: bytes, wanted: type[Learned]) -> Learned:
    """The model that bytes hold. Raises ModelException where they are not a model of that type, damaged, or another's.

    A model of another scikit-learn or another version of tale is refused too: it is to be learned again from history.
    """
    first, _, rest = data.partition(b"\n")
    header = _header(first)
    expected = {"magic": MAGIC, "version": VERSION, "sklearn": SKLEARN, "type": wanted.__name__}
    if differing := sorted(key for key in expected if header.get(key) != expected[key]):
        raise ModelException(
            f"The stored model has another {differing[0]} ({header.get(differing[0])!r}, "
            f"not {expected[differing[0]]!r}); it has to be learned again."
        )
    try:
        untrusted = sorted(set(get_untrusted_types(data=rest)) - TRUSTED_TYPES)
        if untrusted:
            raise ModelException(f"The stored model holds what does not belong there ({untrusted[0]}); do not use it.")
        model: object = loads(rest, trusted=sorted(TRUSTED_TYPES))
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile, UntrustedTypesFoundException) as error:
        raise ModelException("The stored model is damaged; it has to be learned again.") from error
    if not isinstance(model, wanted):
        raise ModelException(f"The stored model is not a {wanted.__name__}; it has to be learned again.")
    return model


def _header(line: bytes) -> dict[str, Any]:
    try:
        header: object = json.loads(line)
    except ValueError as error:
        raise ModelException("These bytes are no stored model of tale; learn one from history.") from error
    if not isinstance(header, dict) or header.get("magic") != MAGIC:  # pyright: ignore[reportUnknownMemberType] - JSON
        raise ModelException("These bytes are no stored model of tale; learn one from history.")
    return header  # pyright: ignore[reportUnknownVariableType] - JSON
