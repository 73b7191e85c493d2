"""Fixtures every room uses."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of a tiny model's test is compiling it; workers and child processes share what is compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Eight fake devices, so that sharding is tested everywhere; code that wants one takes jax.devices()[:1].
# LLVM's optimiser is half of a tiny program's compile time and is left out.
FLAGS = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("ilpjax", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("ilpjax")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; it is not part of the project."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data at {path}")
    return path
