"""The prediction service from definitions to the log, driven through the command, HTTP and gRPC."""

import json
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asof
import deltalake
import numpy as np
import pandas as pd
import pytest
from conftest import Run
from shops import expected, metrics, post, predict, register, serving, wait_until


def test_values_come_from_the_request_else_the_store_else_the_default(asof_bin: str, project: Path, run: Run) -> None:
    with serving(asof_bin, project) as (address, _):
        answer = predict(address, "demand", ["a", "b", "c", "nobody"], price=[1.0, 2, 3, 4])
        wanted = expected(
            project, 1, rating=[4.0, None, 3.5, None], orders=[12, 3, 5, 5], price=[1, 2, 3, 4], city=["Bern", "Basel", "Bern", None]
        )
        assert answer["predictions"] == wanted.tolist()
        assert (answer["model"], answer["model_version"]) == ("demand", 1)
        assert answer["defaults_used"] == [[], [], ["orders"], ["orders"]]
        mine = post(address, "/predict", {
            "route": "demand", "entities": {"shop": ["a"]}, "request": {"price": [1.0], "rating": [1.5], "city": ["Basel"]},
            "prediction_ids": ["mine"],
        })  # fmt: skip
        assert mine["predictions"] == expected(project, 1, rating=[1.5], orders=[12], price=[1.0], city=["Basel"]).tolist()
        assert mine["prediction_ids"] == ["mine"]
        explained = run("predictions", "explain", "mine")["evaluations"]
        assert [evaluation["role"] for evaluation in explained][:1] == ["primary"]
        origins = {feature["name"]: (feature["origin"], feature["value"]) for feature in explained[0]["features"]}
        assert origins == {"rating": ("request", 1.5), "orders": ("store", 12.0), "price": ("request", 1.0), "city": ("request", "Basel")}


def test_bad_requests_say_what_is_wrong(asof_bin: str, project: Path) -> None:
    with serving(asof_bin, project) as (address, _):
        for body, status, message in [
            ({"route": "demnad", "entities": {"shop": ["a"]}}, 404, "did you mean `demand`?"),
            ({"route": "demand", "entities": {"shop": ["a"]}}, 400, "no value for `price`"),
            ({"route": "demand", "entities": {"shop": ["a"]}, "request": {"price": ["x"]}}, 400, "`x`"),
            ({"route": "demand", "entities": {"shop": ["a"]}, "request": {"price": [1], "pirce": [1]}}, 400, "did you mean `price`?"),
            ({"route": "demand", "entities": {"shop": []}, "request": {"price": []}}, 400, "at least one row"),
            ({"route": "demand", "entities": {"shop": ["a"]}, "request": {"price": [1]}, "prediction_ids": ["1", "2"]}, 400, "1 rows"),
            ({"route": "demand", "request": {"price": [1]}}, 400, "`shop`"),
            ({"route": "demand@7", "entities": {"shop": ["a"]}, "request": {"price": [1]}}, 404, "no version 7"),
            ({"rout": "demand"}, 400, "unknown field"),
        ]:
            answer = post(address, "/predict", body)
            assert answer.get("status") == status and message in answer["error"], answer


def test_shadows_experiments_steps_and_lookups(asof_bin: str, project: Path, run: Run) -> None:
    with serving(asof_bin, project) as (address, _):
        ids = [f"v{number}" for number in range(400)]
        body = {"route": "trial", "entities": {"shop": ["a"] * 400}, "request": {"price": [1.0] * 400, "visitor": ids}}
        first, again = (post(address, "/predict", body) for _ in range(2))
        assert first["model_version"] == again["model_version"]
        assert 150 < first["model_version"].count(1) < 250
        by_version = {v: expected(project, v, rating=[4.0], orders=[12], price=[1.0], city=["Bern"])[0] for v in (1, 2)}
        assert first["predictions"] == [by_version[version] for version in first["model_version"]]
        chain = predict(address, "chain", ["a"], price=[1.0])
        assert chain["predictions"] == [by_version[2 if by_version[1] > 0 else 1]]
        looked_up = predict(address, "known", ["a", "nobody"], price=[1.0, 1.0])
        assert looked_up["predictions"][0] == 4.0 and looked_up["model_version"] == [None, 1]
        predict(address, "demand", ["a", "b"], price=[1.0, 1.0])
        run("predictions", "replay")
        wait_until(lambda: 'outcome="done"' in metrics(address))
        replayed = run("predictions", "replay", "--route", "demand")
        # Two of the primary, and the shadow's one of Bern.
        assert replayed == {"replayed": 3, "differences": []}


def test_aliases_move_under_load_without_a_failure(asof_bin: str, project: Path, run: Run) -> None:
    wanted = {
        version: expected(project, version, rating=[4.0] * 2, orders=[12] * 2, price=[1, 2], city=["Bern"] * 2).tolist()
        for version in (1, 2)
    }
    with serving(asof_bin, project) as (address, _), ThreadPoolExecutor(4) as threads:
        stopped = False

        def ask() -> set[int]:
            seen = set()
            while not stopped:
                answer = predict(address, "demand", ["a", "a"], price=[1.0, 2.0])
                assert answer["predictions"] == wanted[answer["model_version"]]
                seen.add(answer["model_version"])
            return seen

        asking = [threads.submit(ask) for _ in range(4)]
        for version in (2, 1, 2):
            run("models", "alias", "demand", "champion", str(version))
            moved = time.monotonic()
            wait_until(lambda: predict(address, "demand", ["a"], price=[1.0])["model_version"] == version)
            assert time.monotonic() - moved < 1
        stopped = True
        assert set().union(*(future.result() for future in asking)) == {1, 2}


def test_every_answered_prediction_is_logged_once_whenever_the_server_is_killed(
    asof_bin: str, project: Path, run: Run
) -> None:
    answered: list[str] = []
    # Records come into the table every two seconds: some of the moments are around that.
    chance = random.Random(5)
    for delay in (0.1, *(chance.uniform(0.2, 2.6) for _ in range(4))):
        with serving(asof_bin, project) as (address, server):

            def ask(thread: int) -> None:
                number = 0
                while server.poll() is None:
                    number += 1
                    id = f"{delay}/{thread}/{number}"
                    try:
                        body = {"route": "trial", "entities": {"shop": ["a"]}, "request": {"price": [1.0], "visitor": [id]}, "prediction_ids": [id]}
                        answer = post(address, "/predict", body)
                    except OSError:
                        return
                    answered.extend(answer["prediction_ids"])

            with ThreadPoolExecutor(4) as threads:
                for thread in range(4):
                    threads.submit(ask, thread)
                time.sleep(delay)
                server.kill()
    run("training-set", "--from-log", "trial", "--out", str(project / "set.parquet"))
    logged = pd.read_parquet(project / "set.parquet")
    assert len(answered) > 50 and set(answered) <= set(logged["prediction_id"])
    assert logged["prediction_id"].is_unique and set(logged["model_version"]) == {1, 2}
    assert run("predictions", "replay")["replayed"] == len(logged)
    assert rows_of_the_log(project) == len(logged)


def rows_of_the_log(project: Path) -> int:
    return deltalake.DeltaTable(project / "state/offline/predictions/log").to_pyarrow_table().num_rows


def test_scores_of_a_spine_are_those_of_requests(asof_bin: str, project: Path, run: Run) -> None:
    spine = project / "spine.csv"
    spine.write_text("event_timestamp,shop,price\n2024-01-01T12:00:00Z,a,1.0\n2024-01-03T00:00:00Z,a,1.0\n2024-01-03T00:00:00Z,b,2.0\n")
    run("predict-batch", "demand", "--entities", str(spine), "--out", str(project / "out.csv"))
    found = pd.read_csv(project / "out.csv")
    wanted = expected(project, 1, rating=[4.5, 4.0, None], orders=[10, 12, 3], price=[1, 1, 2], city=["Bern", "Bern", "Basel"])
    assert found["prediction"].tolist() == wanted.tolist()
    with serving(asof_bin, project) as (address, _):
        assert predict(address, "demand", ["a", "b"], price=[1.0, 2.0])["predictions"] == wanted[1:].tolist()


def test_unmodified_clients_of_triton(asof_bin: str, project: Path) -> None:
    import tritonclient.grpc
    import tritonclient.http

    wanted = expected(project, 1, rating=[4.0, None], orders=[12, 3], price=[1, 2], city=["Bern", "Basel"])
    with serving(asof_bin, project) as (address, _):
        for module, client in [
            (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(address["grpc"])),
            (tritonclient.http, tritonclient.http.InferenceServerClient(address["http"])),
        ]:
            assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("demand")
            metadata = client.get_model_metadata("demand", **({"as_json": True} if module is tritonclient.grpc else {}))
            assert {tensor["name"] for tensor in metadata["inputs"]} == {"rating", "orders", "price", "city", "shop"}
            shop = module.InferInput("shop", [2], "BYTES")
            shop.set_data_from_numpy(np.array(["a", "b"], dtype=object))
            price = module.InferInput("price", [2, 1], "FP64")
            price.set_data_from_numpy(np.array([[1.0], [2.0]]))
            answer = client.infer("demand", [shop, price], outputs=[module.InferRequestedOutput("prediction")])
            assert answer.as_numpy("prediction").tolist() == wanted.tolist()
            rating = module.InferInput("rating", [1], "FP32")
            rating.set_data_from_numpy(np.array([4.0], np.float32))
            orders = module.InferInput("orders", [1], "INT64")
            orders.set_data_from_numpy(np.array([12]))
            city = module.InferInput("city", [1], "BYTES")
            city.set_data_from_numpy(np.array(["Bern"], dtype=object))
            one = module.InferInput("price", [1], "FP64")
            one.set_data_from_numpy(np.array([1.0]))
            # All features in the request: nothing is fetched, and no key is needed.
            answer = client.infer("demand", [rating, orders, city, one], model_version="1")
            assert answer.as_numpy("prediction").tolist() == wanted[:1].tolist()
            client.close()
        split = {"columns": ["shop", "price"], "data": [["a", 1.0], ["b", 2.0]]}
        answer = post(address, "/invocations", {"dataframe_split": split, "params": {"route": "demand"}})
        assert answer == {"predictions": wanted.tolist()}


def test_predictions_by_the_python_client(asof_bin: str, project: Path) -> None:
    wanted = expected(project, 1, rating=[4.0, None], orders=[12, 3], price=[1, 2], city=["Bern", "Basel"])
    with serving(asof_bin, project) as (address, _), asof.Client(address["grpc"]) as client:
        entities = pd.DataFrame({"shop": ["a", "b"], "price": [1, 2]})
        answer = client.predict("demand", entities, prediction_ids=["x", "y"]).to_dict()
        assert answer["prediction"] == wanted.tolist()
        assert (answer["model_version"], answer["prediction_id"]) == ([1, 1], ["x", "y"])
        with pytest.raises(asof.NotFoundError, match="did you mean `demand`"):
            client.predict("demnad", entities)


def test_the_registry_keeps_models_in_use_whole(asof_bin: str, project: Path) -> None:
    def refused(*arguments: str) -> str:
        done = subprocess.run([asof_bin, *arguments], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode != 0, arguments
        return done.stderr

    assert "is named by route `trial`" in refused("models", "retire", "demand", "1")
    assert "stands for version 1, and not for version 2" in refused("models", "alias", "demand", "champion", "2", "--expected", "2")
    assert "did you mean `demand`?" in refused("models", "show", "demnad")
    golden = project / "1.ndjson"
    rows = [json.loads(line) for line in golden.read_text().splitlines()]
    golden.write_text("\n".join(json.dumps({**row, "prediction": row["prediction"] * 1.00001}) for row in rows))
    assert "golden row 1" in refused(*register(project, 1))
    wrong = [argument for argument in register(project, 2) if argument not in ("--request", "price")]
    assert "input `price` of the model is no feature of the service" in refused(*wrong)
    (project / "pickle.pkl").write_bytes(b"\x80\x04\x95")
    assert "pickles are never read" in refused("models", "register", "p", str(project / "pickle.pkl"), "--service", "shops_v1")
    definitions = project / "feature_defs" / "shops.yaml"
    definitions.write_text(definitions.read_text().replace("{name: orders, type: int64}, ", ""))
    message = refused("apply", "--yes")
    assert "demand version 1 (champion" in message and "`shop_profile:orders` is removed" in message
    folder = project / "mlflow"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  sklearn: {pickled_model: model.pkl}\n")
    assert "pickles are never read" in refused("models", "register", "p", str(folder), "--service", "shops_v1")


def test_an_mlflow_folder_is_registered(project: Path, run: Run) -> None:
    folder = project / "mlflow"
    folder.mkdir()
    (folder / "model.lgb").write_bytes((project / "1.txt").read_bytes())
    (folder / "MLmodel").write_text("flavors:\n  lightgbm: {data: model.lgb, lgb_version: 4.6.0}\n  python_function: {loader_module: mlflow.lightgbm}\n")
    registered = run("models", "register", "imported", str(folder), "--service", "shops_v1", "--request", "price")
    assert registered["version"] == 1 and registered["format"] == "lightgbm_text"
