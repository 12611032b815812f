"""The parts of `benches/point_in_time_join.py`.

workloads.py    what is asked: tables, spines, views; plain values
generate.py     the Parquet files of a workload
project.py      the Asof project over those files: definitions, tables
peers.py        the same question put to DuckDB, Polars and ClickHouse; each runs as a process of its own
processes.py    runs a command, and says what it took
answers.py      whether all answers are the same
"""
