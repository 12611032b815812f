"""The evaluators beside the libraries that made the models: the same predictions, to a millionth."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost
from conftest import Run
from model_cases import Case, cases, write_rows


def check(run: Run, folder: Path, case: Case) -> None:
    write_rows(case.rows, folder / "rows.ndjson")
    answer = run("models", "evaluate", str(case.file), "--rows", str(folder / "rows.ndjson"))
    found, expected = np.asarray(answer["predictions"], float), np.asarray(case.predictions, float)
    assert found.shape == expected.shape, case.name
    errors = np.where(found == expected, 0, np.abs(found - expected) / np.maximum(np.abs(expected), 1e-300))
    assert errors.max() < 1e-6, f"{case.name}: row {errors.argmax()} is {errors.max()} off"


def test_trees_answer_what_their_libraries_do(run: Run, tmp_path: Path) -> None:
    for case in cases(tmp_path):
        check(run, tmp_path, case)


def test_names_that_xgboost_cuts_are_refused(asof_bin: str, tmp_path: Path) -> None:
    names = ["Genève", "Lausanne", "Zug"]
    column = pd.Categorical(np.array(names)[np.arange(60) % 3], categories=names)
    matrix = xgboost.DMatrix(pd.DataFrame({"city": column}), np.arange(60) % 3, enable_categorical=True)
    xgboost.train({"max_cat_to_onehot": 1}, matrix, 2).save_model(tmp_path / "cities.json")
    (tmp_path / "rows.ndjson").write_text('{"city": "Zug"}\n')
    asked = [asof_bin, "models", "evaluate", tmp_path / "cities.json", "--rows", tmp_path / "rows.ndjson"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "names beyond ASCII" in done.stderr


def test_pipelines_of_scikit_learn_answer_through_onnx(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    capi = Path(onnxruntime.__file__).parent / "capi"
    monkeypatch.setenv("ORT_DYLIB_PATH", str(next(capi.glob("libonnxruntime.so*"))))
    rng = np.random.default_rng(5)
    values = rng.normal(size=(1000, 6)).astype(np.float32)
    score = values[:, 0] + values[:, 1] * values[:, 2]
    kind = [("input", skl2onnx.common.data_types.FloatTensorType([None, 6]))]
    for name, model, target, options in [
        ("pipeline", make_pipeline(StandardScaler(), LogisticRegression()), score > 0, {"zipmap": False}),
        ("zipmap", LogisticRegression(), np.digitize(score, [-0.5, 0.5]), {}),
        ("network", MLPClassifier((8,), max_iter=30), score > 0, {"zipmap": False}),
        ("regressor", GradientBoostingRegressor(n_estimators=20), score, {}),
    ]:
        model.fit(values, target)
        by_id = {id(model): options} if options else None
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(skl2onnx.to_onnx(model, initial_types=kind, options=by_id, target_opset=17).SerializeToString())
        # ONNX Runtime computes with 32 bits, as the export does: it is the library here, asked row by row as we do,
        # since its answers depend in their fifth digit on how many rows it is given.
        session = onnxruntime.InferenceSession(file)
        answers = [session.run(None, {"input": values[row : row + 1]})[-1] for row in range(len(values))]
        if isinstance(answers[0], list):
            answers = [[[row[key] for key in sorted(row)] for row in answer] for answer in answers]
        expected = np.concatenate([np.asarray(answer, float) for answer in answers])
        # Of two classes the answer is the probability of the second.
        expected = expected[:, -1] if expected.shape[1:] in ((1,), (2,)) else expected
        check(run, tmp_path, Case(name, file, values.astype(float).tolist(), expected))
