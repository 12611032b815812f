"""Models and predictions over gRPC, HTTP and the Open Inference Protocol, call by call."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asof
import grpc
import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from asof._proto import prediction_pb2 as pb
from asof._proto import prediction_pb2_grpc as rpc
from conftest import Run
from shops import expected, metrics, post, serving

CHUNK = 1000


@contextmanager
def stub(address: dict[str, str]) -> Iterator[Any]:
    with grpc.insecure_channel(address["grpc"]) as channel:
        yield rpc.PredictionStub(channel)


def fails(call: Any, code: grpc.StatusCode, message: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    assert raised.value.code() == code and message in raised.value.details(), raised.value.details()


def test_models_are_registered_moved_and_retired_over_grpc(asof_bin: str, project: Path) -> None:
    model, golden = (project / "2.txt").read_bytes(), (project / "2.ndjson").read_text()

    def register(**changed: Any) -> Any:
        header = {
            "name": "far", "service": "shops_v1", "request": ["price"], "defaults": {"orders": "5"}, "golden": golden,
            "metrics": {"rmse": 0.5}, "training": '{"rows": 300}', "owner": "me", **changed,
        }  # fmt: skip
        pieces = [pb.RegisterModelRequest(model=model[at : at + CHUNK]) for at in range(0, len(model), CHUNK)]
        return calls.RegisterModel(iter([pb.RegisterModelRequest(header=pb.ModelHeader(**header)), *pieces]))

    with serving(asof_bin, project) as (address, _), stub(address) as calls, asof.Client(address["grpc"]) as client:
        first = register()
        assert first.version == 1 and json.loads(first.json)["metrics"] == {"rmse": 0.5}
        # It answers at once.
        wanted = expected(project, 2, rating=[4.0], orders=[12], price=[1.0], city=["Bern"])
        assert client.predict("far", {"shop": ["a"], "price": [1.0]}).to_dict()["prediction"] == wanted.tolist()
        assert register().version == 2
        (listed,) = (json.loads(text) for text in calls.ListModels(pb.ListModelsRequest(name="far")).models)
        assert [version["aliases"] for version in listed["versions"]] == [["champion"], []]
        assert listed["versions"][0]["training"] == {"rows": 300}
        move = {"model": "far", "alias": "champion", "version": 2}
        calls.SetModelAlias(pb.SetModelAliasRequest(**move, expected=1))
        fails(lambda: calls.SetModelAlias(pb.SetModelAliasRequest(**move, expected=1)), grpc.StatusCode.ABORTED, "not for version 1")
        assert client.predict("far", {"shop": ["a"], "price": [1.0]}).to_dict()["model_version"] == [2]
        fails(
            lambda: calls.RetireModel(pb.RetireModelRequest(model="far", version=2)),
            grpc.StatusCode.FAILED_PRECONDITION, "in use as `champion`",
        )  # fmt: skip
        fails(
            lambda: calls.RetireModel(pb.RetireModelRequest(model="demand", version=1)),
            grpc.StatusCode.FAILED_PRECONDITION, "is named by route",
        )  # fmt: skip
        fails(
            lambda: calls.SetModelAlias(pb.SetModelAliasRequest(model="demand", alias="challenger", version=0)),
            grpc.StatusCode.FAILED_PRECONDITION, "`demand@challenger` is named by route `demand`",
        )  # fmt: skip
        # A version that no alias stands for can be asked by its number, until it is retired.
        assert client.predict("far@1", {"shop": ["a"], "price": [1.0]}).to_dict()["prediction"] == wanted.tolist()
        calls.RetireModel(pb.RetireModelRequest(model="far", version=1))
        with pytest.raises(asof.PreconditionError, match="is retired"):
            client.predict("far@1", {"shop": ["a"], "price": [1.0]})
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        fails(lambda: register(name="no name"), invalid, "cannot be the name of a model")
        fails(lambda: register(service="shop_v1"), invalid, "did you mean `shops_v1`?")
        fails(lambda: register(golden=golden.replace('"rating": ', '"rating": 1')), invalid, "golden row 1")
        fails(lambda: register(defaults={"orders": "five"}), invalid, "default of `orders`")
        fails(lambda: calls.RegisterModel(iter([pb.RegisterModelRequest(model=b"x")])), invalid, "has to be the header")
        assert len(json.loads(calls.ListModels(pb.ListModelsRequest(name="far")).models[0])["versions"]) == 2


def test_a_spine_is_scored_over_grpc_as_by_the_command(asof_bin: str, project: Path, run: Run) -> None:
    times = pa.array(np.array(["2024-01-01T12:00", "2024-01-03", "2024-01-03"], "datetime64[us]"), pa.timestamp("us", "UTC"))
    spine = pa.table({"event_timestamp": times, "shop": ["a", "a", "b"], "price": [1.0, 1.0, 2.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, spine.schema) as writer:
        writer.write_table(spine)
    bytes_ = sink.getvalue().to_pybytes()

    def score(route: str) -> pa.Table:
        pieces = [pb.BatchPredictRequest(spine=bytes_[at : at + 100]) for at in range(0, len(bytes_), 100)]
        header = pb.BatchPredictRequest(header=pb.BatchPredictHeader(route=route))
        answer = b"".join(part.arrow_ipc for part in calls.BatchPredict(iter([header, *pieces])))
        return pa.ipc.open_stream(answer).read_all()

    with serving(asof_bin, project) as (address, _), stub(address) as calls:
        scored = score("demand")
        wanted = expected(project, 1, rating=[4.5, 4.0, None], orders=[10, 12, 3], price=[1, 1, 2], city=["Bern", "Bern", "Basel"])
        assert scored.column_names == [*spine.column_names, "prediction", "model", "model_version"]
        assert scored["prediction"].to_pylist() == wanted.tolist()
        assert score("demand@2")["model_version"].to_pylist() == [2, 2, 2]
        # Looked-up values and those of the fallback are of one column.
        assert score("known")["prediction"].to_pylist() == [4.5, 4.0, wanted[2]]
        fails(lambda: score("demnad"), grpc.StatusCode.NOT_FOUND, "did you mean `demand`?")
    import pyarrow.parquet

    pyarrow.parquet.write_table(spine, project / "spine.parquet")
    run("predict-batch", "known", "--entities", str(project / "spine.parquet"), "--out", str(project / "out.parquet"))
    assert pd.read_parquet(project / "out.parquet")["prediction"].tolist() == [4.5, 4.0, wanted[2]]


def test_several_routes_of_one_call_share_what_they_fetch(asof_bin: str, project: Path, run: Run) -> None:
    def reads(address: dict[str, str]) -> int:
        lines = [line for line in metrics(address).splitlines() if line.startswith("asof_row_cache_reads_total")]
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines)

    body = {"entities": {"shop": ["a", "b"]}, "request": {"price": [1.0, 2.0]}, "prediction_ids": ["x", "y"]}
    with serving(asof_bin, project) as (address, _), asof.Client(address["grpc"]) as client:
        before = reads(address)
        one = post(address, "/predict", {**body, "route": "demand", "prediction_ids": []})
        cost = reads(address) - before
        answer = post(address, "/predict", {**body, "routes": ["demand", "demand@2", "chain"]})
        assert reads(address) - before == 2 * cost > 0
        demand, second, chain = answer["answers"]
        assert demand["predictions"] == one["predictions"] and demand["route"] == "demand"
        assert second["model_version"] == 2 and demand["prediction_ids"] == second["prediction_ids"] == ["x", "y"]
        assert chain["predictions"] == [second["predictions"][row] if demand["predictions"][row] > 0 else demand["predictions"][row] for row in (0, 1)]
        answers = client.predict_all(["demand", "demand@2"], {"shop": ["a", "b"], "price": [1.0, 2.0]})
        assert answers["demand@2"].to_dict()["prediction"] == second["predictions"]
        for wrong, message in [
            ({"routes": ["demand", "demand"]}, "asked twice"),
            ({"routes": []}, "name a `route`"),
            ({"route": "demand", "routes": ["chain"]}, "name a `route`"),
            ({"routes": ["demand", "trial"]}, "`visitor` is no column"),
        ]:
            refused = post(address, "/predict", {**body, **wrong})
            assert refused["status"] == 400 and message in refused["error"], refused
    explained = run("predictions", "explain", "x")["evaluations"]
    assert {evaluation["route"] for evaluation in explained} == {"demand", "demand@2", "chain"}


def test_lookups_and_their_fallbacks_make_one_column_and_are_logged(asof_bin: str, project: Path, run: Run) -> None:
    routes = project / "feature_defs" / "routes.yaml"
    routes.write_text(routes.read_text() + "  - {name: town, lookup: 'shop_profile:city'}\n")
    run("apply", "--yes")
    wanted = expected(project, 1, rating=[None], orders=[5], price=[1.0], city=[None])[0]
    rows = {"shop": ["a", "nobody"], "price": [1.0, 1.0]}
    with serving(asof_bin, project) as (address, _), asof.Client(address["grpc"]) as client:
        answer = client.predict("known", rows, prediction_ids=["l1", "l2"]).to_dict()
        assert answer["prediction"] == [4.0, wanted] and answer["model_version"] == [None, 1]
        assert client.predict("town", {"shop": ["a", "nobody"]}).to_dict()["prediction"] == ["Bern", None]
        infer = {"inputs": [{"name": "shop", "datatype": "BYTES", "shape": [2], "data": ["a", "nobody"]}]}
        (output,) = post(address, "/v2/models/town/infer", infer)["outputs"]
        assert (output["datatype"], output["data"]) == ("BYTES", ["Bern", ""])
        assert 'asof_predictions_total{route="known",model="",role="lookup"} 1' in metrics(address)
    (looked_up,) = run("predictions", "explain", "l1")["evaluations"]
    assert looked_up["role"] == "lookup" and looked_up["prediction"] == 4.0
    (feature,) = looked_up["features"]
    assert (feature["name"], feature["origin"], feature["status"]) == ("shop_profile:rating", "store", "PRESENT")
    assert run("predictions", "replay", "--route", "known")["replayed"] == 1
    # Of what was looked up no model is to learn.
    made = run("training-set", "--from-log", "known", "--out", str(project / "known.parquet"))
    assert (made["rows"], made["looked_up"]) == (1, 1)
    refused = subprocess.run(
        [asof_bin, "training-set", "--from-log", "town", "--out", "town.parquet"], cwd=project, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "no predictions of route `town`; 2 were looked up" in refused.stderr
    routes.write_text(routes.read_text() + "  - {name: bad, lookup: 'shop_profile:city', fallback: demand}\n")
    refused = subprocess.run([asof_bin, "validate"], cwd=project, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "a model answers numbers" in refused.stderr


def test_training_sets_have_all_numbers_of_a_prediction(asof_bin: str, project: Path, run: Run) -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"rating": rng.uniform(1, 5, 300), "orders": rng.integers(0, 20, 300)})
    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_leaves": 4}
    booster = lightgbm.train(parameters, lightgbm.Dataset(frame, rng.integers(0, 3, 300)), 3)
    booster.save_model(project / "kinds.txt")
    run("models", "register", "kinds", str(project / "kinds.txt"), "--service", "shops_v1")
    wanted = booster.predict(pd.DataFrame({"rating": [4.0, None], "orders": [12, 3]})).tolist()
    with serving(asof_bin, project) as (address, _):
        answer = post(address, "/predict", {"route": "kinds", "entities": {"shop": ["a", "b"]}})
        np.testing.assert_allclose(answer["predictions"], wanted, rtol=1e-12)
        infer = {"id": "mine", "inputs": [{"name": "shop", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]}
        inferred = post(address, "/v2/models/kinds/infer", infer)
        assert (inferred["id"], inferred["model_version"]) == ("mine", "1")
        assert inferred["outputs"][0]["shape"] == [2, 3]
        run("training-set", "--from-log", "kinds", "--out", str(project / "set.parquet"))
    training = pd.read_parquet(project / "set.parquet").sort_values("prediction_id", kind="stable")
    assert sorted(map(tuple, training["prediction"])) == sorted(map(tuple, answer["predictions"] * 2))
    assert {"mine/1", "mine/2"} <= set(training["prediction_id"]) and set(training["model_version"]) == {1}


def test_matrices_over_the_open_inference_protocol(asof_bin: str, project: Path, run: Run) -> None:
    rng = np.random.default_rng(3)
    train = rng.normal(size=(300, 3))
    booster = lightgbm.train({"verbose": -1, "num_leaves": 7}, lightgbm.Dataset(train, train.sum(axis=1)), 10)
    booster.save_model(project / "numbers.txt")
    asked = ["--service", "shops_v1", "--inputs", "rating,orders,price", "--request", "price", "--matrix"]
    run("models", "register", "numbers", str(project / "numbers.txt"), *asked)
    import tritonclient.grpc
    import tritonclient.http

    rows = rng.normal(size=(4, 3))
    rows[1, 1] = np.nan
    single = rows.astype(np.float32)
    with serving(asof_bin, project) as (address, _):
        for module, client in [
            (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(address["grpc"])),
            (tritonclient.http, tritonclient.http.InferenceServerClient(address["http"])),
        ]:
            for datatype, values in (("FP64", rows), ("FP32", single)):
                matrix = module.InferInput("input", [4, 3], datatype)
                matrix.set_data_from_numpy(values)
                answer = client.infer("numbers", [matrix], request_id="five")
                assert answer.as_numpy("prediction").tolist() == booster.predict(values.astype(float)).tolist()
            client.close()
        body = {"inputs": rows[:1].tolist(), "params": {"route": "numbers"}}
        assert post(address, "/invocations", body) == {"predictions": booster.predict(rows[:1]).tolist()}
        for changed, message in [
            ({"shape": [4, 2], "data": [0.0] * 8}, "has 2 values a row"),
            ({"data": [0.0] * 11}, "has 11 values of 12"),
            ({"datatype": "FP16"}, "the datatype FP16, which is not read"),
            ({"datatype": "ZZ"}, "which is not read"),
            ({"datatype": "INT8", "data": [300] * 12}, "has values that are none"),
            ({"datatype": "BOOL", "data": [1] * 12}, "has values that are none"),
            ({"data": ["x"] * 12}, "has values that are none"),
            ({"shape": [-4, 3]}, "has the shape"),
            ({"shape": [12, 1]}, "has 1 value a row, and no model of the route takes so many"),
        ]:
            tensor = {"name": "input", "datatype": "FP64", "shape": [4, 3], "data": [0.0] * 12, **changed}
            refused = post(address, "/v2/models/numbers/infer", {"inputs": [tensor]})
            assert refused.get("status") == 400 and message in refused["error"], (changed, refused)


def test_what_is_odd_in_requests_is_told(asof_bin: str, project: Path, run: Run) -> None:
    with serving(asof_bin, project) as (address, _):
        body = {"route": "demand", "entities": {"shop": ["a"]}, "request": {"price": [1.0]}}
        for changed, message in [
            ({"prediction_ids": [""]}, "the prediction id is empty"),
            ({"prediction_ids": ["i" * 1_025]}, "the prediction id has 1025 bytes; ids have 1024 at most"),
            ({"request": {"price": [1.0], "rating": [1.0], "shop_profile__rating": [2.0]}}, "`rating` is sent twice"),
            ({"entities": {}, "request": {"price": [1.0]}}, "the columns sent are `price`"),
        ]:
            refused = post(address, "/predict", {**body, **changed})
            assert refused.get("status") == 400 and message in refused["error"], refused
        for nothing in ({"instances": []}, {"dataframe_records": []}, {"inputs": {"shop": []}}, {"dataframe_split": {"columns": ["shop"], "data": []}}):
            refused = post(address, "/invocations", {**nothing, "params": {"route": "demand"}})
            assert refused.get("status") == 400 and "at least one row" in refused["error"], (nothing, refused)
        many = [{f"column{number}": 1} for number in range(3000)]
        begun = time.monotonic()
        refused = post(address, "/invocations", {"dataframe_records": many, "params": {"route": "demand"}})
        assert refused["status"] == 400 and "`column0` is neither" in refused["error"] and time.monotonic() - begun < 2
    for arguments, message in [
        (["predictions", "replay", "--route", "demnad"], "did you mean `demand`?"),
        (["models", "register", "m", "/dev/zero", "--service", "shops_v1"], "it is no file"),
    ]:
        refused = subprocess.run([asof_bin, *arguments], cwd=project, capture_output=True, text=True, check=False)
        assert refused.returncode != 0 and message in refused.stderr, refused.stderr


def test_a_view_may_get_features_that_no_model_reads(project: Path, run: Run) -> None:
    (project / "shops.csv").write_text("at,shop,rating,orders,city,size\n2024-01-01T00:00:00Z,a,4.5,10,Bern,3\n")
    definitions = project / "feature_defs" / "shops.yaml"
    more = definitions.read_text().replace("{name: city, type: string}", "{name: city, type: string}, {name: size, type: int64}")
    definitions.write_text(more)
    assert run("apply", "--yes")["plan"]["breaking_models"] == []
