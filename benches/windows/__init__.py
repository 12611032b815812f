"""The parts of `benches/window_aggregation.py` and `benches/window_aggregation_online.py`.

workloads.py    what is asked: orders, aggregates, windows, spines; plain values
generate.py     the Parquet files of a workload
project.py      the Asof project over those files: definitions, tables
peers.py        the same question put to DuckDB, Polars and ClickHouse; each runs as a process of its own
answers.py      whether all answers are the same, floats but for their rounding
"""
