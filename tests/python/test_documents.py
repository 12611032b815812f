"""Every command and every snippet of the documents does what they say."""

import json
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asof
import pytest
import yaml
from asof._definitions import definition_from_dict
from documents import Reader, blocks

REPOSITORY = Path(__file__).parents[2]
# Documents, and how many of their blocks have to run at least, lest they be passed over.
DOCUMENTS = {
    "docs/tutorial.md": 9, "docs/howto.md": 18, "docs/predictions.md": 9, "README.md": 4, "python/README.md": 1
}  # fmt: skip


@pytest.fixture
def reader(asof_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader with the command on the path: that of the Python package, as after `pip install` of the wheel."""
    monkeypatch.setenv("ASOF_BIN", asof_bin)
    programs = tmp_path / "programs"
    programs.mkdir()
    command = programs / "asof"
    command.write_text(f'#!/bin/sh\nASOF_BIN="{asof_bin}" exec "{sys.executable}" -m asof "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "home"
    folder.mkdir()
    reader = Reader(folder, programs)
    yield reader
    reader.close()


def follow(reader: Reader, document: str) -> None:
    before = reader.ran
    reader.follow(REPOSITORY / document)
    assert reader.ran - before >= DOCUMENTS[document], document


def test_the_tutorial_and_what_goes_on_with_it(reader: Reader) -> None:
    follow(reader, "docs/tutorial.md")
    follow(reader, "docs/howto.md")


def test_the_recipe_of_predictions(reader: Reader) -> None:
    follow(reader, "docs/predictions.md")


def test_the_readme(reader: Reader) -> None:
    follow(reader, "README.md")


def test_the_readme_of_the_package(reader: Reader) -> None:
    follow(reader, "python/README.md")


def test_the_definitions_of_the_readme_are_valid(asof_bin: str, tmp_path: Path) -> None:
    (definitions,) = (
        block.body for block in blocks((REPOSITORY / "README.md").read_text()) if block.language == "yaml"
    )
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    (tmp_path / "asof.yaml").write_text("project: readme\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/readme.yaml").write_text(definitions)
    subprocess.run([asof_bin, "validate"], cwd=tmp_path, check=True)


CLICKS = """
sources:
  - name: clicks
    stream: {type: push}
    event_timestamp: clicked_at
    event_id: click
    schema:
      - {name: click, type: string}
      - {name: page, type: string}
      - {name: clicked_at, type: timestamp}
"""


def test_the_requests_of_the_calls_are_answered(
    asof_bin: str, flights_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASOF_BIN", asof_bin)
    get, push = (block.body for block in blocks((REPOSITORY / "docs/api.md").read_text()) if block.language == "json")
    with asof.Local(flights_project) as store:
        assert len(post(store, "get-online-features", get)["columns"]) > 20
    (tmp_path / "asof.yaml").write_text("project: pushed\n")
    (tmp_path / "feature_defs").mkdir()
    (tmp_path / "feature_defs/clicks.yaml").write_text(CLICKS)
    subprocess.run([asof_bin, "apply", "--yes"], cwd=tmp_path, check=True)
    with asof.Local(tmp_path) as store:
        assert post(store, "push", push)["accepted"] == 1
        assert post(store, "push", push)["duplicates"] == 1


def post(store: asof.Local, call: str, body: str) -> Any:
    url = f"http://{store.http}/v1/{call}"
    request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_the_settings_are_settings(asof_bin: str, tmp_path: Path) -> None:
    examples = [
        block.body for block in blocks((REPOSITORY / "docs/settings.md").read_text()) if block.language == "yaml"
    ]
    assert len(examples) == 2
    for number, example in enumerate(examples):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "asof.yaml").write_text(example)
        subprocess.run([asof_bin, "list", "versions"], cwd=folder, check=True)


def test_the_definition_language_has_the_keys_that_it_shows() -> None:
    examples = [
        block.body for block in blocks((REPOSITORY / "docs/definitions.md").read_text()) if block.language == "yaml"
    ]
    shown = 0
    for document in map(yaml.safe_load, examples):
        if "name" in document:
            asof.Field.from_dict(document)
            continue
        for kind, definitions in document.items():
            for definition in definitions:
                written = definition_from_dict(kind, definition).to_dict()
                assert written == definition
                shown += 1
    assert shown >= 10


def test_the_reference_is_what_the_package_says_of_itself() -> None:
    made = runpy.run_path(str(REPOSITORY / "python/scripts/generate_reference.py"))
    message = "run python python/scripts/generate_reference.py"
    assert (REPOSITORY / "docs/python.md").read_text() == made["reference"](), message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\nfalse\ntrue\n```\n", "ended with 1"),
        ("```sh\necho one\n```\n```text output\ntwo\n```\n", "expected\ntwo\n"),
        ("```python\nprint(1)\n```\n```text output\n1\n2\n```\n", "but it printed\n1\n"),
    ],
)
def test_a_document_that_is_wrong_is_found_out(reader: Reader, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "wrong.md").write_text(text)
    with pytest.raises(AssertionError, match=complaint):
        reader.follow(tmp_path / "wrong.md")
