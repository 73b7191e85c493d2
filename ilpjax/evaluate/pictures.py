"""evaluation.png: who names causes how well, what is taken for what, whether the posterior can be believed, doses."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ilpjax.diagnose import CAUSES
from ilpjax.rundir import replacing

INK, PALE = "#1f6f8b", "#8593a3"


def write_picture(path: Path, told: dict[str, Any]) -> None:
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _attributors(panels[0, 0], told)
    _confusion(panels[0, 1], told)
    _reliability(panels[1, 0], told)
    _doses(panels[1, 1], told)
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _attributors(axes: Axes, told: dict[str, Any]) -> None:
    each = {"ours": told["macro_f1"], **{k: v["macro_f1"] for k, v in told["baselines"].items() if "macro_f1" in v}}
    names = list(each)[::-1]
    mean = np.array([each[name]["mean"] for name in names])
    ends = np.array([[each[name]["low"], each[name]["high"]] for name in names], float).T
    reach = np.nan_to_num(np.abs(ends - mean))  # of one world there is no interval
    colours = [INK if name == "ours" else PALE for name in names]
    axes.barh([name.replace("_", " ") for name in names], mean, xerr=reach, color=colours, height=0.6)
    axes.set(xlim=(0, 1), title=f"Macro-F1 over five causes, {len(told['seeds'])} worlds")


def _confusion(axes: Axes, told: dict[str, Any]) -> None:
    counts = np.array(told["confusion"])[: len(CAUSES)]
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", color="white" if row == column else "black")
    words = [name.replace("_", " ") for name in told["classes"]]
    axes.set_xticks(range(len(words)), words, rotation=30, ha="right")
    axes.set_yticks(range(len(CAUSES)), words[: len(CAUSES)])
    axes.set(title="Proven cause (down), named (across), rows")


def _reliability(axes: Axes, told: dict[str, Any]) -> None:
    mean, share, rows = (np.array(v) for v in zip(*told["reliability"], strict=True))
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    axes.scatter(mean, share, s=10 + 300 * rows / rows.sum(), color=INK, label="posterior: share right")
    covered, risk = zip(*told["risk_coverage"], strict=True)
    axes.plot(covered, risk, color="#b3402e", label="share named: share of those wrong")
    axes.set(xlim=(0, 1), ylim=(0, 1), title=f"Calibration (ECE {told['ece']['mean']:.3f}) and risk against coverage")
    axes.legend(loc="center left", frameon=False)


def _doses(axes: Axes, told: dict[str, Any]) -> None:
    doses = [one for one in told["doses"] if "+" not in one["planted"]][::-1]
    names = [f"{one['planted'].replace('_', ' ')}, {one['dose']}" for one in doses]
    share = [one["took"] / one["n"] for one in doses]
    axes.barh(names, share, color=INK, height=0.6)
    axes.set(xlim=(0, 1), title="Plants that took, by dose: a share of n")
    for place, one in enumerate(doses):
        axes.text(share[place] + 0.01, place, f"n = {one['n']}", va="center", fontsize=8)
