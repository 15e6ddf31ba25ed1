"""Many terms in few bytes, and where each stands among them."""

from collections.abc import Iterator, Sequence

import numpy as np


class Terms:
    """Distinct terms in a fixed order: 20 bytes and its text for each, where a dict of them takes some 150.

    They are found by their hashes, which differ from process to process: store `list(terms)`, and make it anew.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        encoded = [term.encode(errors="surrogatepass") for term in terms]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        hashes = np.fromiter(map(hash, terms), np.int64, len(terms))
        self._order = np.argsort(hashes).astype(np.int32)
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> str:
        return self._text[self._ends[place] : self._ends[place + 1]].decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def places_of(self, terms: Sequence[str]) -> list[int | None]:
        """Where each of these stands; None for those that are not among the terms."""
        places: list[int | None] = [None] * len(terms)
        if not len(self):
            return places
        wanted = np.fromiter(map(hash, terms), np.int64, len(terms))
        rows = np.searchsorted(self._hashes, wanted).clip(max=len(self) - 1)
        for at in np.flatnonzero(self._hashes[rows] == wanted).tolist():
            place = int(self._order[rows[at]])
            places[at] = place if self[place] == terms[at] else None
        return places
