# %% [markdown]
# # Which flights will arrive late?
#
# A model that tells at the scheduled departure whether a flight will arrive more than 15 minutes late.
# It trains on features of the past, each as of its own flight's departure, and is then asked online for the same
# flights: it gives the same predictions, because it sees the same values.
#
# Run it in the project's folder (where `asof.yaml` is), as a script or cell by cell in a notebook:
# `python examples/flights/train.py`. It needs the `asof` package with the command, `pandas`, `lightgbm` and `matplotlib`.

# %%
import json
import os
from pathlib import Path

import lightgbm
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import asof

SERVICE = "arrival_delay_v1"
LATE_MINUTES = 15
OUT = Path(os.environ.get("ASOF_EXAMPLE_OUT", "state/example"))
OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A server for the notebook
#
# `asof.Local` starts the server on free ports, and ends it with the program.
# `allow_request_time` lets us ask below what it would have answered in 2013.

# %%
store = asof.Local(".", allow_request_time=True)
store.apply()
store.materialize()
store.status()

# %%
catalog = store.catalog()
catalog.features.carrier_delay

# %% [markdown]
# ## One feature over time
#
# A feature has a value at every moment. Here are the mean delays of one carrier's arrivals over three windows, each
# hour of a winter's month: snow came on the 8th of February.

# %%
hours = pd.date_range("2013-02-01", "2013-03-01", freq="h", tz="UTC")
carrier = store.get_batch_features(
    features=[
        catalog.features.carrier_delay.carrier_delay_mean_1h,
        catalog.features.carrier_delay.carrier_delay_mean_1d,
        catalog.features.carrier_delay.carrier_delay_mean_7d,
    ],
    entities=pd.DataFrame({"carrier": "UA", "event_timestamp": hours}),
).to_pandas()

figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
for window, width in [("1h", 0.5), ("1d", 1.5), ("7d", 2.5)]:
    axes.plot(carrier["event_timestamp"], carrier[f"carrier_delay_mean_{window}"], lw=width, label=f"last {window}")
axes.set(title="United's arrivals from New York", ylabel="mean delay, minutes")
axes.legend()
figure.savefig(OUT / "feature_over_time.png")

# %% [markdown]
# ## The spine: what to ask, and when
#
# A row a flight with its keys, its scheduled departure, and the label. To keep the example short, every fourth flight.

# %%
flights = pd.read_parquet("data/nycflights13/flights.parquet")
flights["event_timestamp"] = flights["time_hour"] + pd.to_timedelta(flights["minute"], unit="min")
flights["late"] = (flights["arr_delay"] > LATE_MINUTES).astype("int8")
arrived = flights[flights["arr_delay"].notna()].sort_values("event_timestamp", kind="stable")
spine = arrived[["origin", "dest", "carrier", "tailnum", "distance", "event_timestamp", "late"]].iloc[::4]
spine = spine.astype({"distance": "int64"}).reset_index(drop=True)
print(f"{len(spine)} flights, {spine['late'].mean():.1%} of them late")

# %% [markdown]
# ## The training set
#
# Each row gets the features as they were at its own departure. A flight that had not landed by then is in none of them.

# %%
answer = store.get_batch_features(features=SERVICE, entities=spine)
frame = answer.to_pandas()
answer

# %%
# What the model reads: the numbers and truth values among the service's features.
numbers = frame.drop(columns=["late"]).select_dtypes(["number", "bool", "boolean"])
inputs = [name for name in numbers.columns if name == "distance" or name not in spine.columns]


def matrix(rows: pd.DataFrame) -> np.ndarray:
    """The model's inputs, in order; nulls are NaN, which LightGBM takes for missing."""
    return rows[inputs].astype("float64").to_numpy(na_value=np.nan)


print(len(inputs), "features")

# %% [markdown]
# ## Train on the past, test on the future
#
# The split is by time, as in production: the model sees January to September to learn, October to stop in time,
# and is judged by November and December.

# %%
months = frame["event_timestamp"].dt.month
parts = {"train": months <= 9, "stop": months == 10, "test": months >= 11}
data = {
    name: lightgbm.Dataset(matrix(frame[part]), frame["late"][part], feature_name=inputs)
    for name, part in parts.items()
}
model = lightgbm.train(
    {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 100,
        "feature_fraction": 0.7,
        "seed": 1,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 2,
        "verbose": -1,
    },
    data["train"],
    num_boost_round=150,
    valid_sets=[data["stop"]],
    callbacks=[lightgbm.early_stopping(20, verbose=False)],
)
print(f"{model.best_iteration} trees")


# %%
def area_under_curve(late: np.ndarray, score: np.ndarray) -> float:
    """How often a late flight is ranked above one that is not."""
    ranks = pd.Series(score).rank().to_numpy()
    positives = int(late.sum())
    return float((ranks[late == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(late) - positives)))


test = frame[parts["test"]].reset_index(drop=True)
late = test["late"].to_numpy()
predicted = model.predict(matrix(test))
base = frame["late"][parts["train"]].mean()
metrics = {
    "test_rows": len(test),
    "late_share": float(late.mean()),
    "auc": area_under_curve(late, predicted),
    "log_loss": float(-np.mean(late * np.log(predicted) + (1 - late) * np.log(1 - predicted))),
    "log_loss_of_the_mean": float(-np.mean(late * np.log(base) + (1 - late) * np.log(1 - base))),
}
metrics

# %%
importance = pd.Series(model.feature_importance("gain"), inputs).sort_values().tail(15)
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.barh(importance.index, importance / importance.sum())
axes.set(title="What the model looks at", xlabel="share of gain among the first 15")
figure.savefig(OUT / "importance.png")

# %%
bins = pd.qcut(predicted, 20, duplicates="drop")
calibration = pd.DataFrame({"predicted": predicted, "late": late}).groupby(bins, observed=True).mean()
figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
axes.plot([0, 1], [0, 1], color="grey", lw=1)
axes.plot(calibration["predicted"], calibration["late"], marker="o")
axes.set(
    title="Calibration, November and December",
    xlabel="predicted",
    ylabel="share that was late",
    xlim=(0, 1),
    ylim=(0, 1),
)
figure.savefig(OUT / "calibration.png")

# %% [markdown]
# ## Save the model
#
# In LightGBM's own text format, with the names of its inputs, and beside it what its training set was made from:
# with `versions=` the same question has the same answer again.

# %%
model.save_model(OUT / "arrival_delay.txt")
training = {
    "service": SERVICE,
    "registry_version": answer.metadata.registry_version,
    "tables": dict(answer.metadata.tables),
}
(OUT / "arrival_delay.training.json").write_text(json.dumps(training, indent=2))

# %% [markdown]
# ## The same flights, online
#
# Each of some hundred flights of the test months is asked about as a prediction service would, at its departure.
# The answers make the same predictions, to the last bit.

# %%
served = lightgbm.Booster(model_file=OUT / "arrival_delay.txt")
asked = test.iloc[:: max(1, len(test) // 300)]
answers = []
for row in asked[["origin", "dest", "carrier", "tailnum", "distance", "event_timestamp"]].to_dict("records"):
    moment = row.pop("event_timestamp").to_pydatetime()
    answers.append(store.get_online_features(features=SERVICE, entities=[row], now=moment).to_pandas())
online = served.predict(matrix(pd.concat(answers, ignore_index=True)))
batch = served.predict(matrix(asked))
metrics["online_rows"] = len(asked)
metrics["online_differences"] = int((online != batch).sum())
print(f"{len(asked)} flights asked online, {metrics['online_differences']} predictions differ")

# %%
(OUT / "metrics.json").write_text(json.dumps(metrics, indent=2))
store.close()
print(json.dumps(metrics, indent=2))
