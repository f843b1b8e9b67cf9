"""Builds and runs the native load generator (``benches/loadgen``, a crate of its own)."""

import json
import shutil
import subprocess
from pathlib import Path

CRATE = Path(__file__).resolve().parent / "loadgen"
TARGET = CRATE.parent.parent / "target" / "loadgen"


class LoadgenError(Exception):
    """The load generator reported a failure of the server."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


class Loadgen:
    """The built program."""

    def __init__(self, program: Path):
        self.program = program

    @classmethod
    def build(cls) -> "Loadgen":
        """Compile it (takes seconds the first time); without cargo, use the existing program."""
        program = TARGET / "release" / "loadgen"
        if shutil.which("cargo") is None and program.exists():
            return cls(program)
        command = ["cargo", "build", "--quiet", "--release", "--locked"]
        command += ["--manifest-path", str(CRATE / "Cargo.toml"), "--target-dir", str(TARGET)]
        subprocess.run(command, check=True)
        return cls(program)

    def run(
        self,
        load: tuple[str, ...],
        address: str,
        pid: int,
        seconds: float,
        cpu: int,
        limit: float,
        clock: str,
    ) -> float:
        """Return the nanoseconds per operation (or bytes, depending on the mode)."""
        command = [str(self.program), *load, "--to", address, "--seconds", str(seconds)]
        command += ["--pid", str(pid), "--clock", clock]
        if cpu >= 0:
            command += ["--cpu", str(cpu)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit + seconds)
        except subprocess.TimeoutExpired:
            raise LoadgenError("hang", f"no progress for {limit:.0f} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
            message = lines[-1] if lines else f"exit status {done.returncode}"
            kinds = {2: "wrong result", 3: "hang"}
            raise LoadgenError(kinds.get(done.returncode, "error"), message)
        return json.loads(done.stdout)["cost"]
