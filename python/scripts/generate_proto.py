"""Writes asof/_proto from proto/asof/v1.

Run it with the oldest grpcio-tools that the package supports, since generated code refuses older
runtimes than its own generator's but takes newer ones:

    pip install "grpcio-tools==1.72.1"
    python python/scripts/generate_proto.py
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from grpc_tools import protoc

PYTHON = Path(__file__).resolve().parent.parent
PROTO = PYTHON.parent / "proto"
FILES = ["asof/v1/feature_store.proto", "asof/v1/prediction.proto"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{PROTO}", *outputs, *FILES]) != 0:
            raise SystemExit("protoc failed")
        for generated in sorted(Path(folder, "asof/v1").iterdir()):
            # The proto package is not a Python package of ours: the modules live in asof._proto.
            text = re.sub(r"^from asof\.v1 import", "from asof._proto import", generated.read_text(), flags=re.M)
            (PYTHON / "asof/_proto" / generated.name).write_text(text)


if __name__ == "__main__":
    main()
