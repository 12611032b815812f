"""Builds a wheel that carries the asof program: build_wheel.py PROGRAM OUT_FOLDER

The program is stripped. The wheel's tag says which systems it runs on: the newest version of the C library that the
program asks for, and the machine. The libraries it needs have to be among those that every such system has.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHON = Path(__file__).resolve().parent.parent
# What the manylinux policies take for granted.
LIBRARIES = {
    "linux-vdso.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1",
    "libstdc++.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
}  # fmt: skip


def platform_tag(program: Path) -> str:
    """For instance ``manylinux_2_36_x86_64``."""
    needed = subprocess.run(["objdump", "-p", program], check=True, capture_output=True, text=True).stdout
    missing = set(re.findall(r"NEEDED\s+(\S+)", needed)) - LIBRARIES
    if missing:
        raise SystemExit(f"{program} needs {', '.join(sorted(missing))}, which not every system has")
    minor = max(int(version) for version in re.findall(r"GLIBC_2\.(\d+)", needed))
    return f"manylinux_2_{minor}_{platform.machine()}"


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    program, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "python")
        shutil.copytree(PYTHON, tree, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "tests"))
        carried = tree / "asof" / "_bin" / "asof"
        carried.parent.mkdir()
        subprocess.run(["strip", "-o", carried, program], check=True)
        carried.chmod(0o755)
        tag = f"--build-option=--plat-name={platform_tag(carried)}"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, f"--config-settings={tag}", "--wheel-dir", out, tree], check=True)


if __name__ == "__main__":
    main()
