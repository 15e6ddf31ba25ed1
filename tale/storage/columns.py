"""What the columns of all tables are made of."""

from typing import Any, Final

from sqlalchemy import Column, Dialect, Double, MetaData, String, Text, TypeDecorator

ID_CHARACTERS: Final = 36
WORD_CHARACTERS: Final = 32
DIGEST_CHARACTERS: Final = 64


class StoredText(TypeDecorator[str]):
    """Text from models and people, of any length.

    Engines cut their streams anywhere, and no database keeps half a surrogate pair; PostgreSQL keeps no NUL either.
    Halves that belong together are joined, other such characters are replaced by U+FFFD, so that the row is kept.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make the text storable."""
        if value is None:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value.replace("\x00", "\ufffd")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def id_column(name: str, *arguments: Any, **options: Any) -> Column[str]:
    """A column of ids."""
    return Column(name, String(ID_CHARACTERS), *arguments, **options)


def word_column(name: str, *arguments: Any, **options: Any) -> Column[str]:
    """A column of words out of a few."""
    return Column(name, String(WORD_CHARACTERS), *arguments, **options)


def text_column(name: str, **options: Any) -> Column[str]:
    """A column of texts of any length."""
    return Column(name, StoredText(), **options)


def number_column(name: str, **options: Any) -> Column[float]:
    """A column of numbers with a point: Unix time (`_at`), a duration (`_s`), a share."""
    return Column(name, Double[float](), **options)
