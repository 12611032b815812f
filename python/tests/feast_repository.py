"""The Feast repository of the tests: its data, and questions about it put to Feast itself.

feast_repository.py REPO    run by a Python that has `feast`: applies the repository, and writes `asked.parquet`,
                            the answers of Feast for the rows of `spine.parquet`
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2024, 3, 1, tzinfo=UTC)
MICROS = pa.timestamp("us", "UTC")


def write_data(repo: Path, seed: int = 7) -> None:
    """Files in which no two rows of a key have one time, of which Feast's stores do not all choose the same."""
    chance = random.Random(seed)
    hours = [(driver, hour) for driver in range(1, 6) for hour in range(72) if chance.random() < 0.5]
    times = [START + timedelta(hours=hour, minutes=driver) for driver, hour in hours]
    pq.write_table(
        pa.table(
            {
                "driver_id": pa.array([driver for driver, _ in hours]),
                "event_timestamp": pa.array(times, MICROS),
                "created": pa.array(times, MICROS),
                "convRate": pa.array([chance.random() for _ in hours], pa.float32()),
                "rating": pa.array([chance.uniform(1, 5) if chance.random() < 0.8 else None for _ in hours]),
                "trips_today": pa.array([chance.randrange(30) for _ in hours], pa.int64()),
                "config": pa.array(["{}"] * len(hours)),
            }
        ),
        repo / "data/driver_stats.parquet",
    )
    days = [(driver, city, day) for driver in range(1, 6) for city in "ABC" for day in range(3)]
    ended = [START + timedelta(days=day, hours=20, minutes=driver) for driver, _, day in days]
    pq.write_table(
        pa.table(
            {
                "driver_id": pa.array([driver for driver, _, _ in days]),
                "city_code": pa.array([city for _, city, _ in days]),
                "ended_at": pa.array(ended, MICROS),
                "trips": pa.array([chance.randrange(9) for _ in days]),
                "last_streets": pa.array(
                    [[f"{city}{n}" for n in range(chance.randrange(1, 3))] for _, city, _ in days]
                ),
                "last_seen": pa.array(ended, MICROS),
            }
        ),
        repo / "data/trips.parquet",
    )
    asked = [
        (chance.randrange(1, 8), chance.choice("ABCD"), START + timedelta(minutes=chance.randrange(5000)))
        for _ in range(300)
    ]
    pq.write_table(
        pa.table(
            {
                "driver_id": pa.array([driver for driver, _, _ in asked]),
                "city_code": pa.array([city for _, city, _ in asked]),
                "event_timestamp": pa.array([time for _, _, time in asked], MICROS),
                "row": pa.array(range(len(asked))),
            }
        ),
        repo / "spine.parquet",
    )


FEATURES = [
    "driver_stats:conv_rate",
    "driver_stats:rating",
    "driver_stats:trips_today",
    "city_trips:trips",
    "city_trips:last_streets",
    "city_trips:last_seen",
]


def main() -> None:
    from feast import FeatureStore

    repo = Path(sys.argv[1]).resolve()
    # Where Feast's DuckDB store looks for files.
    os.chdir(repo)
    subprocess.run([Path(sys.executable).with_name("feast"), "apply"], check=True, stdout=sys.stderr)
    spine = pq.read_table(repo / "spine.parquet").to_pandas()
    answer = FeatureStore(repo_path=str(repo)).get_historical_features(entity_df=spine, features=FEATURES).to_df()
    pq.write_table(pa.Table.from_pandas(answer, preserve_index=False), repo / "asked.parquet")


if __name__ == "__main__":
    main()
