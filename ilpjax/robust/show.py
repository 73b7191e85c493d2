"""The statistics as plain JSON values, and as a person reads them on a terminal. Every line says its n."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

DIGITS = 5  # significant ones of every number written
Told = dict[str, Any]


def plain(value: Any) -> Any:
    """JSON values: NumPy unpacked, floats at DIGITS significant digits, null for NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def robustness_text(told: Told) -> str:
    """Of what `summarise` found."""
    parts = [
        _groups(told["rows"], told["confidence"]),
        _agreement(told["agreement"]),
        _factors(told["variance"]["flagged"]),
        _protocols(told["prevalence"], told["retest"]["halves"]),
        *map(between_runs, told["retest"]["runs"]),
    ]
    return "\n\n".join(parts)


def prevalence_text(told: Told) -> str:
    """Of what the job `prevalence` found."""
    lines = [[p["dataset"], p["model"], p["run"], p["rule"], *_counted(p)] for p in told["prevalence"]]
    sets = [
        [
            p["model"],
            p["rule"],
            str(p["datasets"]),
            _num(p["n"]),
            *(pct(p[key]) for key in ("mean", "sd", "se")),
            _ends(p),
        ]
        for p in told["over_datasets"]
    ]
    parts = [
        f"rows that were not learned, with {100 * told['confidence']:g} % intervals",
        _table(("data set", "model", "run", "rule", "n", "flagged", "share", "interval"), lines),
        "mean over data sets (of each, over its runs), standard deviation between them, standard error of the mean",
        _table(("model", "rule", "sets", "n", "mean", "sd", "se", "interval"), sets),
    ]
    if told["over_runs"]:
        runs = [
            [p["dataset"], p["base"], p["rule"], str(p["runs"]), _num(p["n"])]
            + [pct(p[key]) for key in ("mean", "sd", "least", "most")]
            for p in told["over_runs"]
        ]
        parts += ["between runs of the same base"]
        parts += [_table(("data set", "base", "rule", "runs", "n", "mean", "sd", "least", "most"), runs)]
    return "\n\n".join([*parts, *map(between_runs, told["runs"])])


def between_runs(told: Told) -> str:
    """Of one group of `agreement_of_runs`."""
    differ = ", ".join(told["differ"]) or "nothing"
    lines = [f"the same rows in {len(told['runs'])} runs of {told['base']}, which differ in {differ}"]
    lines += [
        f"{p['a']} and {p['b']} share {_num(p['shared'])} rows; {_num(p['only_a'])}, {_num(p['only_b'])} in one alone"
        for p in told["pairs"]
        if p["only_a"] or p["only_b"]
    ]
    cells = [
        [
            r["protocol"],
            _num(r["n"]),
            dec(r["kappa"]),
            _ends(r, dec),
            *(dec(r[key]) for key in ("least", "most", "jaccard")),
        ]
        for r in told["rules"]
    ]
    return "\n".join([*lines, _table(("rule", "n", "kappa", "interval", "least", "most", "Jaccard"), cells)])


def pct(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def dec(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _groups(rows: Told, confidence: float) -> str:
    meant = {
        "core": "flagged by 80 % of the protocols or more",
        "rim": "flagged by fewer, or by the run's own verdict alone",
        "never": "flagged by none",
    }
    lines = [f"{_num(rows['n'])} rows under up to {rows['protocols']} protocols; {100 * confidence:g} % intervals"]
    for name, one in rows["groups"].items():
        lines.append(f"  {name:6s}{_num(one['n']):>7s}  {pct(one['share']):>7s} {_ends(one)}  {meant[name]}")
        if name != "never":
            lines[-1] += f"; the run itself flags {_num(one['own'])} of them, the options alone {_num(one['artefact'])}"
    own, others = (rows["mean_share"][name] for name in ("own", "others"))
    lines.append(
        f"  on average {pct(own['mean'])} of the protocols flag a row that the run flags (n = {_num(own['n'])}),"
        f" {pct(others['mean'])} one that it does not (n = {_num(others['n'])})"
    )
    if rows["by_cause"]:
        cells = [[c["cause"], *(str(c[key]) for key in ("n", "core", "rim", "never"))] for c in rows["by_cause"]]
        lines += ["", _table(("cause", "n", "core", "rim", "never"), cells)]
    return "\n".join(lines)


def _agreement(told: Told) -> str:
    kappa, shared, fleiss = told["kappa_mean"], told["jaccard_mean"], told["fleiss"]
    sure = sum(p["p_holm"] is not None and p["p_holm"] < 0.05 and p["kappa"] > 0 for p in told["pairs"])
    lines = [
        f"how two protocols agree: kappa {dec(kappa['value'])} {_ends(kappa, dec)},"
        f" mean of {_num(kappa['pairs'])} pairs ({_num(sure)} above 0, Holm p < .05)",
        f"Jaccard {dec(shared['value'])} {_ends(shared, dec)}, n = {_num(told['n'])};"
        f" Fleiss' kappa of all {dec(fleiss['value'])} {_ends(fleiss, dec)}, n = {_num(fleiss['n'])}",
    ]
    if told["constant"]:
        lines.append(f"no kappa, as they flag all or none: {', '.join(told['constant'])}")
    return "\n".join(lines)


def _factors(told: Told) -> str:
    lines = []
    for factor in told["factors"]:
        change, flips = factor["change"], factor["flips"]
        span = (
            "-"
            if change is None
            else f"{pct(change['mean'])} {_ends(change)} {change['lowest']} to {change['highest']}"
        )
        lines.append(
            [factor["factor"], str(factor["levels"]), pct(factor["all_rows"]["share"]), pct(factor["by_row"]["share"])]
            + ["-" if flips is None else f"{pct(flips['share'])} {_ends(flips)}", span, _p(factor["p_holm"])]
        )
    lines += [[name, "", "", pct(told[name]["share"]), "", "", ""] for name in ("row", "rest")]
    head = ("factor", "levels", "all rows", "row by row", "flips, alone", "largest change, alone", "p, Holm")
    says = f"n = {_num(told['n'])} rows, {told['protocols']} protocols"
    return f"what moves the verdict: shares of the variance of `flagged`, {says}\n{_table(head, lines)}"


def _protocols(shares: list[Told], halves: list[Told]) -> str:
    """What each flags, and whether it flags the same again."""
    again = {h["protocol"]: [_num(h["n"]), dec(h["kappa"]), _ends(h, dec)] for h in halves}
    lines = [[p["rule"], *_counted(p), *again.get(p["rule"], ["", "", ""])] for p in shares]
    head = ("protocol", "n", "flagged", "share", "interval", "n twice", "kappa", "interval")
    says = "kappa: test and retest on disjoint draws" if halves else "none was drawn twice: no test and retest"
    return f"what each protocol flags; {says}\n{_table(head, lines)}"


def _counted(share: Told) -> list[str]:
    return [_num(share["n"]), _num(share["flagged"]), pct(share["share"]), _ends(share)]


def _table(head: tuple[str, ...], lines: Iterable[list[str]]) -> str:
    return pd.DataFrame(list(lines), columns=list(head)).to_string(index=False)


def _num(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _ends(one: Told, show: Callable[[float | None], str] = pct) -> str:
    if one["low"] is None or one["high"] is None:
        return ""
    return f"({show(one['low']).removesuffix(' %')} to {show(one['high']).removesuffix(' %')})"


def _p(p: float | None) -> str:
    return "-" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"
