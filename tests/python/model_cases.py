"""Models of every library, trained here on small data, with what the library itself answers to 1,000 random rows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost

TRAINED_ROWS = 400
ROWS = 1000
NUMBERS = ["a", "b", "c", "d"]
CATEGORIES = ["size", "colour"]
COLOURS = np.array(["red", "dark blue", "a colour of more than sixteen", "a name of more than thirty-two bytes, as some have it"])


@dataclass
class Case:
    name: str
    file: Path
    rows: list[list[Any]]
    predictions: Any


def data(rng: np.random.Generator, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers with missing values, whole numbers among them, and two categories; and a score that depends on all."""
    numbers = rng.normal(size=(rows, len(NUMBERS)))
    numbers[:, 3] = rng.integers(-2, 3, rows)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    frame = pd.DataFrame(numbers, columns=NUMBERS)
    frame["size"] = rng.integers(0, 25, rows)
    frame["colour"] = COLOURS[rng.integers(0, len(COLOURS), rows)]
    known = np.nan_to_num(numbers)
    score = known[:, 0] * known[:, 1] + 0.5 * known[:, 3] + frame["size"] % 5 * 0.3 - (frame["colour"] == "red") * 0.7
    return frame, (score - score.mean() + rng.normal(size=rows) * 0.3).to_numpy()


def plain(frame: pd.DataFrame) -> list[list[Any]]:
    def value(cell: Any) -> Any:
        cell = cell.item() if hasattr(cell, "item") else cell
        return None if isinstance(cell, float) and np.isnan(cell) else cell

    return [[value(cell) for cell in row] for row in frame.astype(object).itertuples(index=False, name=None)]


def targets(rng: np.random.Generator, score: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "regression": score,
        "binary": (score > 0).astype(int),
        "multiclass": np.digitize(score, [-0.7, 0.7]),
        "poisson": rng.poisson(np.exp(np.clip(score, -2, 2) * 0.5)),
        "positive": np.exp(np.clip(score, -2, 2)),
    }


def categorical(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        size=pd.Categorical(frame["size"], categories=range(25)), colour=pd.Categorical(frame["colour"], categories=sorted(COLOURS))
    )


def cases(folder: Path) -> Iterator[Case]:
    rng = np.random.default_rng(11)
    train, score = data(rng, TRAINED_ROWS)
    test, _ = data(rng, ROWS)
    target = targets(rng, score)
    rows = plain(test)
    yield from lightgbm_cases(folder, categorical(train), target, categorical(test), rows)
    yield from xgboost_cases(folder, categorical(train), target, categorical(test), rows)
    yield from catboost_cases(folder, train, target, test, rows)


def lightgbm_cases(folder: Path, train: Any, target: Any, test: Any, rows: Any) -> Iterator[Case]:
    common = {"num_leaves": 15, "min_data_in_leaf": 5, "min_data_per_group": 5, "cat_smooth": 1, "verbose": -1, "num_threads": 1}
    for name, wanted, parameters in [
        ("regression", "regression", {}),
        ("regression", "positive", {"reg_sqrt": True}),
        ("poisson", "poisson", {}),
        ("tweedie", "poisson", {}),
        ("binary", "binary", {"sigmoid": 1.3}),
        ("binary", "binary", {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}),
        ("cross_entropy_lambda", "binary", {}),
        ("multiclass", "multiclass", {"num_class": 3}),
        ("multiclassova", "multiclass", {"num_class": 3}),
        ("regression", "regression", {"zero_as_missing": True}),
        ("regression", "regression", {"use_missing": False}),
    ]:
        booster = lightgbm.train({"objective": name, **common, **parameters}, lightgbm.Dataset(train, target[wanted]), 30)
        file = folder / f"lightgbm_{name}_{'_'.join(parameters)}.txt"
        booster.save_model(file)
        yield Case(file.stem, file, rows, booster.predict(test))


def xgboost_cases(folder: Path, train: Any, target: Any, test: Any, rows: Any) -> Iterator[Case]:
    for objective, wanted, parameters in [
        ("reg:squarederror", "regression", {}),
        ("count:poisson", "poisson", {}),
        ("reg:gamma", "positive", {}),
        ("binary:logistic", "binary", {}),
        ("binary:logistic", "binary", {"booster": "dart", "rate_drop": 0.3}),
        ("multi:softprob", "multiclass", {"num_class": 3}),
        ("multi:softmax", "multiclass", {"num_class": 3}),
    ]:
        matrix = xgboost.DMatrix(train, target[wanted], enable_categorical=True)
        common = {"objective": objective, "max_depth": 5, "max_cat_to_onehot": 2, "nthread": 1}
        booster = xgboost.train({**common, **parameters}, matrix, 30)
        predictions = booster.predict(xgboost.DMatrix(test, enable_categorical=True))
        for ending in ("json", "ubj"):
            file = folder / f"xgboost_{objective.replace(':', '_')}_{'_'.join(parameters)}.{ending}"
            booster.save_model(file)
            yield Case(file.name, file, rows, predictions)


def catboost_cases(folder: Path, train: Any, target: Any, test: Any, rows: Any) -> Iterator[Case]:
    classifier, regressor = catboost.CatBoostClassifier, catboost.CatBoostRegressor
    for name, model_type, wanted, parameters in [
        ("regression", regressor, "regression", {}),
        ("poisson", regressor, "poisson", {"loss_function": "Poisson"}),
        ("binary", classifier, "binary", {}),
        ("one_hot", classifier, "binary", {"one_hot_max_size": 30}),
        ("multiclass", classifier, "multiclass", {}),
        ("lossguide", classifier, "multiclass", {"grow_policy": "Lossguide"}),
        ("nan_max", regressor, "regression", {"nan_mode": "Max"}),
    ]:
        model = model_type(
            iterations=30, depth=4, verbose=0, cat_features=CATEGORIES, allow_writing_files=False, thread_count=1, **parameters
        ).fit(train, target[wanted])
        file = folder / f"catboost_{name}.json"
        model.save_model(file, format="json")
        if model_type is classifier:
            predictions = model.predict_proba(test)
            predictions = predictions[:, 1] if wanted == "binary" else predictions
        else:
            predictions = model.predict(test)
        yield Case(file.stem, file, rows, predictions)


def write_rows(rows: list[list[Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
