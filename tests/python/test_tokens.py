"""Tokens for some views, over HTTP."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from conftest import Run
from test_tables import make_project


def test_a_token_for_some_views_is_not_for_models(asof_bin: str, tmp_path: Path, run: Run) -> None:
    make_project(tmp_path)
    addresses = 'grpc: "127.0.0.1:0", http: "127.0.0.1:0"'
    (tmp_path / "asof.yaml").write_text(f"project: types\nserver: {{{addresses}, auth: {{tokens: tokens.yaml}}}}\n")
    run("apply", "--yes")
    everything = run("tokens", "create", "everything", "--role", "reader")["token"]
    some = run("tokens", "create", "some", "--role", "admin", "--views", "all_types")["token"]
    command = [asof_bin, "serve", "--stop-with-stdin", "--output", "json"]
    server = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    lines = []
    for line in server.stdout:
        lines.append(line)
        if line == "}\n":
            break
    http = json.loads("".join(lines))["http"]

    def status(path: str, token: str) -> int:
        request = urllib.request.Request(f"http://{http}{path}", headers={"authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        assert (status("/v2", everything), status("/v2", some)) == (200, 403)
        assert status("/openapi.json", some) == 200
    finally:
        server.communicate()
