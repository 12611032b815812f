"""What the package offers is written down."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import asof


def test_everything_offered_is_listed_and_only_that() -> None:
    public = {name for name, value in vars(asof).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert sorted(public) == asof.__all__


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    assert asof.__doc__ is not None
    for name in asof.__all__:
        assert name in asof.__doc__, name


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        functions = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in functions if not name.startswith("_")}

    assert calls(asof.Client) == calls(asof.AsyncClient)


def test_both_questions_take_the_same_arguments_but_for_the_times() -> None:
    def arguments(name: str) -> set[str]:
        return set(inspect.signature(getattr(asof.Client, name)).parameters)

    online, batch = arguments("get_online_features"), arguments("get_batch_features")
    assert batch - online == {"start", "end", "as_of", "as_known", "from_source", "versions"}
    assert online - batch == {"now", "event_timestamps"}


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (asof.Client.get_online_features, "Answer"),
        (asof.Client.get_batch_features, "Answer"),
        (asof.AsyncClient.get_batch_features, "Answer"),
        (asof.Client.stream_batch_features, "AnswerStream"),
        (asof.AsyncClient.stream_batch_features, "AsyncAnswerStream"),
        (asof.Client.list_entities, "list[Entity]"),
    ],
)
def test_notebooks_show_a_call_with_its_arguments_its_result_and_its_documentation(call: Any, result: str) -> None:
    assert inspect.signature(call).return_annotation == result
    assert "timeout" in inspect.signature(call).parameters
    assert call.__doc__ and call.__name__ in call.__qualname__
    assert inspect.iscoroutinefunction(call) == (call is getattr(asof.AsyncClient, call.__name__))
