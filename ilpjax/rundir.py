"""The run directory: tables written beside their target and renamed, stages that know when they are done."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ilpjax.errors import InputError
from ilpjax.settings import Config


@contextlib.contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Yields a path beside `target` (file or folder) to write to; renamed onto it only if the body succeeds.

    A kill leaves the old target or the new one, never a mixture.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        part = scratch / target.name
        yield part
        if target.is_dir() and part.is_dir():
            # A folder cannot be renamed onto a full one: the old one steps aside, and goes with the scratch folder.
            os.rename(target, scratch / "old")
        os.replace(part, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    with replacing(path) as part:
        table.to_parquet(part, index=False)


def read_table(path: Path | str) -> pd.DataFrame:
    """Raises InputError when the file is absent or is not Parquet."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{path}: not a Parquet table ({_first_line(error)})") from None


def write_text(path: Path | str, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def fingerprint(*parts: Any) -> str:
    """A hash of configs, plain values and files. A file counts by its content, a folder by its files."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part]
            for file in files:
                digest.update(str(file.relative_to(part)).encode() if part.is_dir() else b"")
                _digest_file(digest, file)
        else:
            value = part.model_dump(mode="json") if isinstance(part, Config) else part
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


class RunDir:
    """A folder of tables and the stages that made them. Raises InputError where a file stands in its place."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"out: {self.path} is a file; a folder, or a name not taken yet, would be right")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def start(self, config: Config) -> None:
        """Writes the resolved config and the environment, so that the run can be told and repeated."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        write_json(self / "environment.json", environment())

    def stage(self, name: str, inputs: Sequence[Any], outputs: Sequence[str], run: Callable[[], Any]) -> bool:
        """Runs a stage unless it finished with the same inputs and its outputs are still there.

        Returns whether it ran. The stamp is written last: a killed stage runs again. So does one whose `run` returned
        False: it wrote what it has, and has more to do.
        """
        stamp, key = self / ".stages" / f"{name}.json", fingerprint(*inputs)
        if self._is_done(stamp, key, outputs):
            return False
        if run() is False:
            stamp.unlink(missing_ok=True)
            return True
        write_json(stamp, {"inputs": key, "outputs": list(outputs)})
        return True

    def is_done(self, name: str, inputs: Sequence[Any], outputs: Sequence[str]) -> bool:
        """Whether `stage` would do nothing."""
        return self._is_done(self / ".stages" / f"{name}.json", fingerprint(*inputs), outputs)

    def _is_done(self, stamp: Path, key: str, outputs: Sequence[str]) -> bool:
        same = stamp.is_file() and json.loads(stamp.read_text()).get("inputs") == key
        return same and all((self / output).exists() for output in outputs)


def environment() -> dict[str, Any]:
    """Versions, devices and, in a checkout, the commit."""
    import platform
    import subprocess

    import jax

    names = ("ilpjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "grain", "numpy")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    here = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": git.stdout.strip() or None,
    }


def _digest_file(digest: Any, file: Path) -> None:
    # Weights are gigabytes; their size and time of change tell as much as a user needs.
    if file.stat().st_size > 64 << 20:
        digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    else:
        digest.update(file.read_bytes())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
