"""Asks the running server for rows of a training set, each at its own time, and compares the two answers.

Usage: compare.py SERVING_JSON TRAINING_NDJSON — needs nothing but Python.
"""

import json
import sys
import urllib.request
from typing import Any

KEYS = ["origin", "dest", "carrier", "tailnum"]
REQUEST = ["distance"]
SHOWN = ["temp", "seats", "carrier_late_share", "carrier_delay_mean_1h", "plane_delay_mean_7d", "route_landings_30d"]


def ask(http: str, row: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """The online answer at the row's time: feature to (value, status)."""
    body = {
        "feature_service": "arrival_delay_v1",
        "entities": {key: [row.get(key)] for key in KEYS},
        "request": {name: [row.get(name)] for name in REQUEST},
        "now": row["event_timestamp"],
    }
    call = urllib.request.Request(
        f"http://{http}/v1/get-online-features",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(call) as response:
        columns = json.load(response)["columns"]
    return {c["name"]: (c["values"][0], c["statuses"][0]) for c in columns if "statuses" in c}


def main() -> int:
    serving, training = sys.argv[1:]
    with open(serving) as file:
        http = json.load(file)["http"]
    with open(training) as file:
        rows = [json.loads(line) for line in file]
    if not rows:
        print("there are no rows to compare")
        return 1
    differences = compared = 0
    print(f"{'flight':28} {'':7}" + "".join(f"{name:>20}" for name in SHOWN))
    for number, row in enumerate(rows):
        online = ask(http, row)
        for name, (value, status) in online.items():
            compared += 1
            if (row[name], row[f"{name}__status"]) != (value, status):
                differences += 1
                print(f"differs: {name}: batch {row[name]!r}, online {value!r}")
        if number % max(1, len(rows) // 5) == 0:
            flight = f"{row['carrier']} {row['flight']} {row['origin']}-{row['dest']} {row['event_timestamp'][:10]}"
            print(f"{flight:28} {'batch':7}" + "".join(f"{shown(row[name]):>20}" for name in SHOWN))
            print(f"{'':28} {'online':7}" + "".join(f"{shown(online[name][0]):>20}" for name in SHOWN))
    print(f"\n{len(rows)} flights, {compared} values compared, {differences} differences")
    return 1 if differences else 0


def shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "null" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
