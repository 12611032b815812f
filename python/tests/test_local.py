"""A server that comes and goes with its program."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import asof

PROGRAM = """
import sys, asof, os
store = asof.Local(sys.argv[1], create=True)
print(store._server._process.pid, flush=True)
"""


@pytest.fixture(autouse=True)
def _needs_the_binary(binary: str) -> None:
    del binary


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def started(program: str, project: Path) -> tuple[subprocess.Popen[str], int]:
    """A program, and the server that it says it started."""
    process = subprocess.Popen([sys.executable, "-c", program, str(project)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def finish(process: subprocess.Popen[str]) -> None:
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()


def test_from_an_empty_folder_to_a_served_feature(tmp_path: Path) -> None:
    rows = "customer,at,total\nann,2024-05-01T10:00:00Z,12.5\nbob,2024-05-02T10:00:00Z,7\n"
    (tmp_path / "orders.csv").write_text(rows)
    customer = asof.Entity(name="customer", join_keys=[asof.Field("customer", "string")])
    orders = asof.Source(name="orders", batch=asof.Batch("csv", "orders.csv"), event_timestamp="at")
    window = asof.Aggregation(input="total", function="sum", windows=["lifetime"])
    spent = asof.FeatureView(name="spent", entities=[customer], source=orders, aggregations=[window])
    with asof.Local(tmp_path, create=True) as store:
        assert store.apply(spent)["version"] == 1
        day = dt.date(2024, 5, 2)
        (run,) = store.materialize(spent, start=dt.datetime(2024, 5, 1), end=day)["views"]
        assert run["rows_written"] == 1
        store.materialize()
        answer = store.get_online_features(features=["spent"], entities=[{"customer": "ann"}, {"customer": "eve"}])
        assert answer.to_dict()["total_sum_lifetime"] == [12.5, None]
        # A change is served as soon as `apply` returns.
        assert store.apply(spent, asof.FeatureService(name="v1", features=[spent]))["version"] == 2
        assert store.catalog().services.v1 == "v1"
        # What is refused leaves the files as they were.
        before = written(tmp_path)
        with pytest.raises(asof.InvalidError, match="nope"):
            missing = asof.Field("nope", "float64")
            store.apply(asof.FeatureView(name="wrong", entities=[customer], source=orders, features=[missing]))
        assert written(tmp_path) == before
        with pytest.raises(asof.NotFoundError, match="did you mean `spent`"):
            store.materialize("spend")
        with pytest.raises(asof.InvalidError, match="5 is no view"):
            store.materialize(5)  # type: ignore[arg-type]
        with pytest.raises(asof.InvalidError, match="colour"):
            (tmp_path / "feature_defs" / "more.yaml").write_text("entities: [{name: a, colour: red}]\n")
            store.apply()


def written(project: Path) -> dict[str, str]:
    """The definition files by name."""
    return {str(file.relative_to(project)): file.read_text() for file in project.rglob("feature_defs/**/*.yaml")}


def test_what_is_applied_joins_what_was_applied_before(tmp_path: Path) -> None:
    def entity(name: str, description: str | None = None) -> asof.Entity:
        return asof.Entity(name=name, description=description, join_keys=[asof.Field("k", "string")])

    def applied() -> list[asof.Entity]:
        return sorted(store.list_entities(), key=lambda each: each.name)

    with asof.Local(tmp_path, create=True) as store:
        store.apply(entity("a"), [entity("b")])
        store.apply(entity("b", "newer"), entity("c"))
        assert applied() == [entity("a"), entity("b", "newer"), entity("c")]
        assert sorted(written(tmp_path)) == [f"feature_defs/from_python/entities/{name}.yaml" for name in "abc"]
        before = written(tmp_path)
        for wrong in ("../up", "a/b", "..", ""):
            with pytest.raises(asof.InvalidError):
                store.apply(entity("d"), entity(wrong), replace=True)
            assert written(tmp_path) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["asof.yaml", "feature_defs", "state"]
        store.apply(entity("c"), replace=True)
        assert applied() == [entity("c")]
        with pytest.raises(asof.InvalidError, match="'c' is no definition"):
            store.apply("c")  # type: ignore[arg-type]


def test_the_server_ends_with_the_block_and_another_may_start(tmp_path: Path) -> None:
    with asof.Local(tmp_path, create=True) as store:
        pid = store._server._process.pid
        assert is_running(pid)
        with pytest.raises(asof.UnavailableError, match="in use by another process; if a server runs"):
            asof.Local(tmp_path)
    assert not is_running(pid)
    assert "closed" in repr(store)
    with asof.Local(tmp_path) as store:
        assert store.status().project == tmp_path.name.replace(".", "_")
    store.close()


def test_the_server_ends_when_nobody_uses_it(tmp_path: Path) -> None:
    store = asof.Local(tmp_path, create=True)
    pid = store._server._process.pid
    del store
    assert ends(pid)


def test_the_server_ends_with_its_program(tmp_path: Path) -> None:
    process, pid = started(PROGRAM, tmp_path)
    finish(process)
    assert process.returncode == 0 and ends(pid)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_a_killed_program(tmp_path: Path, kill: signal.Signals) -> None:
    process, pid = started(PROGRAM + "import time; time.sleep(60)", tmp_path)
    assert is_running(pid)
    process.send_signal(kill)
    finish(process)
    assert ends(pid)


def test_a_forked_child_neither_keeps_the_server_nor_ends_it(tmp_path: Path) -> None:
    # The child outlives the parent by far; it must not hold the pipe, and its own end must not be the server's.
    program = (
        PROGRAM
        + """
if os.fork() == 0:
    os.close(1)
    import time
    if sys.argv[1].endswith("short"):
        store.close()
    else:
        time.sleep(5)
    os._exit(0)
import time; time.sleep(0.5)
print("running", store.status().project, flush=True)
time.sleep(60)
"""
    )
    for project in (tmp_path / "short", tmp_path / "long"):
        process, pid = started(program, project)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("running")
        process.kill()
        finish(process)
        assert ends(pid)


def test_an_interrupt_of_the_terminal_is_not_for_the_server(tmp_path: Path) -> None:
    with asof.Local(tmp_path, create=True) as store:
        assert os.getpgid(store._server._process.pid) != os.getpgid(0)


def test_what_keeps_it_from_starting_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(asof.NotFoundError, match=r"there is no `.*asof.yaml`; give the folder of a project"):
        asof.Local(tmp_path)
    (tmp_path / "asof.yaml").write_text("project: x\nregistri: here\n")
    with pytest.raises(asof.InvalidError, match=r"did not start.*registri"):
        asof.Local(tmp_path)
    monkeypatch.setenv("ASOF_BIN", str(tmp_path / "nothing"))
    with pytest.raises(asof.NotFoundError, match="ASOF_BIN names"):
        asof.Local(tmp_path)
    monkeypatch.delenv("ASOF_BIN")
    script = tmp_path / "asof"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(asof.NotFoundError, match="the asof program is not there"):
        asof.Local(tmp_path)


def test_a_server_that_never_listens_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setenv("ASOF_BIN", str(silent))
    with pytest.raises(asof.UnavailableError, match="the server did not start"):
        asof.Local(tmp_path, create=True, start_timeout=0.3)
