"""The plain ways to guess routes and lengths that learning has to beat: medians, length alone, nearest neighbours."""

from collections.abc import Callable

import numpy as np
import polars as pl
from peers.public_data import Floats, Lengths, Pair
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

NEIGHBOURS = 15


def knn_scores(train: Pair, prompts: list[str], seed: int) -> Floats:
    del seed
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    rows = words.fit_transform(train.prompts)
    nearest = KNeighborsRegressor(min(4 * NEIGHBOURS, len(train.weak)), metric="cosine")
    return nearest.fit(rows, train.strong - train.weak).predict(words.transform(prompts))


def length_scores(train: Pair, prompts: list[str], seed: int) -> Floats:
    logs = [np.log1p([[len(text)] for text in texts]) for texts in (train.prompts, prompts)]
    trees = HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=8, random_state=seed)
    return trees.fit(logs[0], train.strong - train.weak).predict(logs[1])


def medians(train: Lengths, test: Lengths) -> Floats:
    models = np.array([each.model for each in train.requests])
    middle = {str(name): float(np.median(train.tokens[models == name])) for name in np.unique(models)}
    return np.array([middle[each.model] for each in test.requests])


def from_texts(train: Lengths, test: Lengths, method: Callable[[list[str], Floats, list[str]], Floats]) -> Floats:
    """Medians of the models, times what a plain method learns of texts alone."""
    rest = np.log1p(train.tokens) - np.log1p(medians(train, train))
    mean = pl.DataFrame({"text": [each.text for each in train.requests], "rest": rest}).group_by("text").mean()
    added = method(mean["text"].to_list(), mean["rest"].to_numpy(), [each.text for each in test.requests])
    return np.expm1(np.log1p(medians(train, test)) + added)


def by_length(texts: list[str], rest: Floats, new: list[str]) -> Floats:
    logs = [np.log1p([[len(text)] for text in each]) for each in (texts, new)]
    return Ridge(1.0).fit(logs[0], rest).predict(logs[1])


def by_neighbours(texts: list[str], rest: Floats, new: list[str]) -> Floats:
    words = TfidfVectorizer(sublinear_tf=True)
    nearest = KNeighborsRegressor(min(NEIGHBOURS, len(texts)), metric="cosine").fit(words.fit_transform(texts), rest)
    return nearest.predict(words.transform(new))


def medians_or_all(train: Lengths, test: Lengths) -> Floats:
    """Medians of the models, and of all where a model has no row yet."""
    seen = {each.model for each in train.requests}
    known = np.array([each.model in seen for each in test.requests])
    found = np.full(len(test.tokens), float(np.median(train.tokens)))
    found[known] = medians(train, test.taken(np.flatnonzero(known)))
    return found
