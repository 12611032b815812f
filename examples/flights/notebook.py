"""Writes train.ipynb from train.py, whose cells begin at `# %%`: python examples/flights/notebook.py"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def notebook(script: str) -> dict[str, Any]:
    """The notebook with the script's cells, none of them run."""
    cells = []
    for number, text in enumerate(script.split("# %%")[1:]):
        head, _, body = text.partition("\n")
        is_markdown = head.strip() == "[markdown]"
        lines = [
            line.removeprefix("# ").removeprefix("#") if is_markdown else line for line in body.strip().splitlines()
        ]
        source = [line + "\n" for line in lines[:-1]] + lines[-1:]
        cell = {"id": f"cell-{number:02}", "cell_type": "markdown", "metadata": {}, "source": source}
        if not is_markdown:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "train.ipynb").write_text(text(notebook((HERE / "train.py").read_text())))
