"""The comparison: same results first, the peer's best settings, then rounds in turn."""

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import ilpjax
from ilpjax.bench.ratio import paired_ratio
from ilpjax.bench.worker import Worker
from ilpjax.config import BenchJob
from ilpjax.errors import BenchError, InputError

PEERS = Path(ilpjax.__file__).parents[1] / "tools" / "peers"


@dataclass(frozen=True)
class Bench:
    """`tolerance`: of results, as a share of the largest, in float32 and in bfloat16."""

    peer: str  # program under tools/peers
    package: str  # what it compares with
    unit: str
    tolerance: tuple[float, float]
    settings: dict[str, tuple[int, ...]]  # of the peer, to choose from


BENCHES = {
    "scoring": Bench("lm_eval_scoring.py", "lm_eval", "items/s", (1e-5, 2e-2), {"batch": (1, 4, 8, 16, 32)}),
    "sampling": Bench("transformers_sampling.py", "transformers", "tokens/s", (1e-5, 2e-2), {"batch": (1, 2, 4, 8)}),
    "sft": Bench("trl_sft.py", "trl", "tokens/s", (1e-5, 1e-2), {"batch": (1, 2, 4, 8)}),
    "similarity": Bench(
        "sentence_transformers_similarity.py",
        "sentence_transformers",
        "pairs/s",
        (4e-6, 4e-6),  # float32 on any device; tells a row from the next among 250,000
        {"query_chunk": (200, 500, 1_000, 2_000, 5_000, 10_000), "corpus_chunk": (5_000, 20_000, 100_000)},
    ),
}


def run_bench(job: BenchJob) -> None:
    """Prints the ratio of our rate to the peer's. Raises InputError where the peer is not installed, BenchError where
    the results differ or a side fails."""
    if job.what == "memory":
        from ilpjax.bench import memory  # brings JAX along, which the comparisons keep out of this process

        told = memory.compare(job)
        sizes = ", ".join(f"{n:,} items {mib:.0f} MiB" for n, mib in zip(told["items"], told["peak_mib"], strict=True))
        print(json.dumps(told) if job.json_ else f"bench memory on {told['device']}: peak {sizes}")
        return
    bench = BENCHES[job.what]
    for package in ("torch", "transformers", bench.package):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"bench {job.what}: {package} is not installed; pip install 'ilpjax[bench]' brings it")
    if not (PEERS / bench.peer).is_file():
        raise InputError(f"bench: {PEERS} is missing; run it from a checkout of ilpjax, installed with pip install -e")
    with tempfile.TemporaryDirectory() as folder:
        show(job, compare(job, bench, Path(folder)))


def compare(job: BenchJob, bench: Bench, folder: Path) -> dict[str, Any]:
    """All that is printed, by name."""
    with (
        Worker("ilpjax", [sys.executable, "-m", "ilpjax.bench.ours"], our_environment(job)) as ours,
        Worker(bench.package, [sys.executable, str(PEERS / bench.peer)], {"HF_HUB_OFFLINE": "1"}) as peer,
    ):
        values = job.model_dump(by_alias=True)
        about = ours.ask("prepare", job=values, folder=str(folder))
        if about["platform"] not in ("cpu", "gpu"):
            raise InputError(f"device: no peer runs on {about['platform']}; device=cpu would be right")
        device = "cuda" if about["platform"] == "gpu" else "cpu"
        versions = peer.ask("prepare", job=values, folder=str(folder), device=device)
        compiled = ours.ask("run")["compile"]
        difference = check(ours.ask("check"), peer.ask("check"), bench.tolerance[device == "cuda"])
        best = sweep(peer, {"threads": threads(device), **bench.settings})
        rounds = list(in_turn(ours, peer, best, job.rounds))
        more = ours.ask("more")
    our_rates, peer_rates = ([r[n] for r in rounds] for n in range(2))
    ratio = paired_ratio(our_rates, peer_rates)
    return {
        "what": job.what,
        "ours": median(our_rates),
        "peer": median(peer_rates),
        "ratio": ratio.ratio,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "unit": bench.unit,
        "device": f"{about['platform']}: {about['kind']}" if device == "cuda" else processor(),
        "rounds": len(rounds),
        "max_diff": difference,
        "compile_s": compiled,
        **{f"peer_{name}": value for name, value in best.items()},
        "versions": {"jax": about["jax"], **versions},
        **shares(median(our_rates), more),
    }


def shares(rate: float, more: dict[str, Any]) -> dict[str, Any]:
    """What our rate is of what the device can do, as it was measured beside the rounds and (mfu) as its vendor says."""
    told: dict[str, Any] = {"matmul_gflops": more["matmul_rate"] / 1e9, "copy_gbs": more["copy_rate"] / 1e9}
    if "flops" in more:
        told["share_of_matmul"] = rate * more["flops"] / more["matmul_rate"]
        if more["peak"]:
            told["mfu"] = rate * more["flops"] / more["peak"]
    if "bytes" in more:
        told["share_of_bandwidth"] = rate * more["bytes"] / more["copy_rate"]
    if "large" in more:
        told["large"] = more["large"] | {
            "gflops": more["large"]["rate"] * more["flops"] / 1e9,
            "share_of_matmul": more["large"]["rate"] * more["flops"] / more["matmul_rate"],
        }
    if "dynamics" in more:
        told |= dict(zip(("dynamics", "dynamics_low", "dynamics_high"), more["dynamics"], strict=True))
    return told


def our_environment(job: BenchJob) -> dict[str, str]:
    platform = {"cpu": {"JAX_PLATFORMS": "cpu"}, "gpu": {"JAX_PLATFORMS": "cuda"}, "auto": {}}[job.device]
    # The peer needs its part of the same GPU.
    return {**platform, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}


def threads(device: str) -> list[int]:
    """Of the peer, to choose from: 1, 2, the physical cores, all."""
    available = len(os.sched_getaffinity(0))
    return [available] if device == "cuda" else sorted({1, min(2, available), physical(available), available})


def physical(available: int) -> int:
    """Cores behind the processors that may be used."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return available
    return len(cores)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"cpu: {name}, {len(os.sched_getaffinity(0))} cores"


def check(ours: Sequence[float], peer: Sequence[float], tolerance: float) -> float:
    """The largest difference. Raises BenchError where it is over `tolerance` of the largest value."""
    mine, theirs = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if mine.shape != theirs.shape:
        raise BenchError(f"bench: {mine.size} results of ours, {theirs.size} of the peer; there is nothing to compare")
    difference, scale = float(np.max(np.abs(mine - theirs))), float(np.max(np.abs(theirs)))
    if not difference <= tolerance * max(scale, 1.0):  # NaN is a difference
        raise BenchError(
            f"bench: the results differ by {difference:.3g}, and values go up to {scale:.3g}; a ratio of times would "
            "mean nothing"
        )
    return difference


def sweep(peer: Worker, settings: dict[str, Sequence[int]]) -> dict[str, int]:
    """The peer's best settings, one after the other: those before it at their best, those behind it middling."""
    best = {name: values[len(values) // 2] for name, values in settings.items()}
    for name, values in settings.items():
        best = fastest(peer, [best | {name: n} for n in values])
    return best


def fastest(peer: Worker, settings: Sequence[dict[str, int]]) -> dict[str, int]:
    """Each is tried once, the two best of them again: one turn alone may have met a busy machine."""
    if len(settings) == 1:
        return settings[0]

    def rate(one: dict[str, int]) -> float:
        answer = peer.ask("run", few=True, **one)
        return answer["work"] / answer["seconds"]

    first = sorted(((rate(one), n) for n, one in enumerate(settings)), reverse=True)[:2]
    return settings[max((max(before, rate(settings[n])), n) for before, n in first)[1]]


def in_turn(ours: Worker, peer: Worker, best: dict[str, int], rounds: int) -> Iterator[tuple[float, float]]:
    """(our rate, the peer's) of each round, after one that is not counted."""
    for n in range(rounds + 1):
        rates = []
        for answer in (ours.ask("run"), peer.ask("run", **best)):
            rates.append(answer["work"] / answer["seconds"])
            time.sleep(0.05)  # a library's threads spin for some milliseconds after work
        if n:
            yield rates[0], rates[1]


def show(job: BenchJob, result: dict[str, Any]) -> None:
    if job.json_:
        print(json.dumps(result))
        return
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(f"bench {job.what} on {result['device']}; {versions}")
    print(f"  same results: largest difference {result['max_diff']:.2g}")
    best = (f"{name.replace('_', ' ')} {result[f'peer_{name}']}" for name in ("threads", *BENCHES[job.what].settings))
    print(f"  peer's best: {', '.join(best)}")
    print(f"  ours {result['ours']:.4g} {result['unit']}, peer {result['peer']:.4g}")
    print(f"  compiling took {result['compile_s']:.1f} s, apart from that")
    names = {"share_of_matmul": "of a large matrix product's rate", "mfu": "of the vendor's peak"}
    for key, text in (names | {"share_of_bandwidth": "of the floor that a copy's speed sets"}).items():
        if key in result:
            print(f"  {result[key]:.0%} {text}")
    if "dynamics" in result:
        spread = f"{result['dynamics_low']:.4f} to {result['dynamics_high']:.4f}"
        print(f"  step time with every row's dynamics, over without: {result['dynamics']:.4f} ({spread})")
    if "large" in result:
        show_large(result["large"])
    print(
        f"  ratio {result['ratio']:.2f} ({result['ratio_low']:.2f} to {result['ratio_high']:.2f}, "
        f"median of {result['rounds']} paired rounds)"
    )


def show_large(large: dict[str, Any]) -> None:
    speed = f"{large['gflops']:.0f} GFLOP/s, {large['share_of_matmul']:.0%} of a large matrix product's rate"
    print(f"  {large['rows']:,} rows alone: {large['seconds']:.1f} s; {large['rate']:.4g} pairs/s, {speed}")
    print(f"    {large['peak_mib']:.0f} MiB at the peak, up to {large['mapped_mib']:.0f} of them pages of mapped files")
    print(f"    {large['estimated_rows']:,} rows at that rate, an estimate: {large['estimated_s']:,.0f} s")
