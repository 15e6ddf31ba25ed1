"""Files of rows, Parquet and CSV, written and read in pieces, so that no table has to fit into memory."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from tale.exceptions import ValidationException

Kind = Literal["text", "whole", "number", "truth"]
Row = dict[str, Any]
Format = Literal["parquet", "csv"]

SUFFIXES: Final[dict[str, Format]] = {".parquet": "parquet", ".csv": "csv"}
GROUP_ROWS: Final = 20_000  # of a Parquet file: what is held in memory before it is written
GROUP_BYTES: Final = 32 * 2**20
READ_ROWS: Final = 1_000
BLOCK_BYTES: Final = 16 * 2**20  # of a CSV file; no row may be longer


def format_of(path: Path) -> Format | None:
    """The format that a file's name tells; None for another."""
    return SUFFIXES.get(path.suffix.lower())


class RowWriter:
    """Takes rows and writes them out bit by bit; made by `writing`."""

    def __init__(self, sink: Any, schema: Any, arrow: Any) -> None:
        self._sink = sink
        self._schema = schema
        self._arrow = arrow
        self._batches: list[Any] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._batches.append(self._arrow.RecordBatch.from_pylist(rows, schema=self._schema))
        held_rows = sum(batch.num_rows for batch in self._batches)
        if held_rows >= GROUP_ROWS or sum(batch.nbytes for batch in self._batches) >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write out what is held."""
        if self._batches:
            self._sink.write_table(self._arrow.Table.from_batches(self._batches, schema=self._schema))
            self._batches = []


@contextmanager
def writing(path: Path, columns: Mapping[str, Kind], notes: Mapping[str, str]) -> Generator[RowWriter]:
    """A new file, which appears whole or not at all; `notes` are kept in a Parquet file. Raises ValidationException."""
    arrow = import_module("pyarrow")
    types = {"text": arrow.string(), "whole": arrow.int64(), "number": arrow.float64(), "truth": arrow.bool_()}
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()], metadata=dict(notes))
    if path.exists():
        raise ValidationException(f"{path} exists already; name another file, or move it away.")
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _sink(draft, schema, format_of(path)) as sink:
            writer = RowWriter(sink, schema, arrow)
            yield writer
            writer.flush()
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValidationException(f"{path} cannot be written: {reason}; see that the disk has room.") from error
    finally:
        draft.unlink(missing_ok=True)


def notes_of(path: Path) -> dict[str, str]:
    """What was noted in a Parquet file; nothing of a CSV file. Raises ValidationException."""
    if format_of(path) != "parquet":
        return {}
    with _reading(path), import_module("pyarrow.parquet").ParquetFile(path) as file:
        held: dict[bytes, bytes] = file.schema_arrow.metadata or {}
        return {key.decode(): value.decode() for key, value in held.items()}


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns. Raises ValidationException."""
    with _reading(path):
        if format_of(path) == "parquet":
            with import_module("pyarrow.parquet").ParquetFile(path) as file:
                return list(file.schema_arrow.names)
        with _csv_reader(path) as reader:
            return list(reader.schema.names)


def pieces_of(path: Path) -> Iterator[list[Row]]:
    """The rows in their order, some at a time; of a CSV file all values are text, or None where there was nothing.

    An empty text stands in a CSV file as two quotes. Raises ValidationException.
    """
    with _reading(path):
        if format_of(path) == "parquet":
            with import_module("pyarrow.parquet").ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=READ_ROWS):
                    yield batch.to_pylist()
            return
        with _csv_reader(path) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, READ_ROWS):
                    yield batch.slice(start, READ_ROWS).to_pylist()


@contextmanager
def _sink(path: Path, schema: Any, form: Format | None) -> Generator[Any]:
    if form == "parquet":
        with import_module("pyarrow.parquet").ParquetWriter(path, schema, compression="zstd") as sink:
            yield sink
    elif form == "csv":
        csv = import_module("pyarrow.csv")
        with csv.CSVWriter(path, schema, write_options=csv.WriteOptions(quoting_style="needed")) as sink:
            yield sink
    else:
        raise ValidationException(f"{path} is of no kind that can be written; let its name end in .parquet or .csv.")


def _csv_reader(path: Path) -> Any:
    csv, arrow = import_module("pyarrow.csv"), import_module("pyarrow")
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            default_column_type=arrow.string(),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


@contextmanager
def _reading(path: Path) -> Generator[None]:
    if format_of(path) is None:
        raise ValidationException(f"{path} is of no kind that can be read; let its name end in .parquet or .csv.")
    try:
        yield
    except OSError as error:
        raise ValidationException(f"{path} cannot be read: {error.strerror or error}.") from error
    except import_module("pyarrow").ArrowInvalid as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValidationException(f"{path} is damaged, or no file of that kind: {reason}.") from error
