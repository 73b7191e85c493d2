"""The pictures: matplotlib drawn twice, for light and for dark, as SVG data URIs. Text is the reader's own font."""

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ilpjax.report.frame import Judged
from ilpjax.report.numbers import JSD_CONFLICT

POINTS = 3000  # above it, a density instead of a scatter
STEPS = 1500  # points of the loss curve


class Ink(NamedTuple):
    """page.css has the same colours under the same names."""

    text: str
    faint: str
    grid: str
    paper: str
    unlearned: str
    corrected: str
    base: str
    tuned: str


LIGHT = Ink("#1d2733", "#5b6876", "#e3e7eb", "#ffffff", "#b3402e", "#c98a1b", "#8593a3", "#1f6f8b")
DARK = Ink("#e4e9ee", "#9aa7b4", "#303943", "#171c22", "#ef7f6b", "#e0b050", "#7d8b9a", "#5bb8d4")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ilpjax",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Picture(NamedTuple):
    light: str  # data URI
    dark: str
    alt: str
    width: int
    height: int


def draw(width: float, height: float, alt: str, plot: Callable[[Figure, Ink], None]) -> Picture:
    """`plot` is called once for each palette. Sizes in inches, shown at 96 pixels an inch."""
    light, dark = (_svg(width, height, plot, ink) for ink in (LIGHT, DARK))
    return Picture(light, dark, alt, round(width * 96), round(height * 96))


def _svg(width: float, height: float, plot: Callable[[Figure, Ink], None], ink: Ink) -> str:
    colours: dict[Any, Any] = {
        name: ink.faint for name in ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    }
    with rc_context(_RC | colours | {"text.color": ink.text, "grid.color": ink.grid}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a data set's name may be in a script that the layout font lacks
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        plot(figure, ink)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}, dpi=150)
    text = out.getvalue().decode().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def by_group(groups: list[dict[str, Any]], what: str, flat: bool) -> Picture:
    """Share unlearned in both modes with intervals: groups down the side (`flat`), or along the bottom."""
    names = [_label(group["name"]) for group in groups]
    at = np.arange(len(groups))

    def plot(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        for shift, key, colour, label in (
            (-0.13, "unlearned", ink.unlearned, "paper mode"),
            (0.13, "unlearned_corrected", ink.corrected, "corrected mode"),
        ):
            values = np.array([[g[key][k] or 0 for k in ("share", "low", "high")] for g in groups]).reshape(-1, 3) * 100
            errors = np.abs(np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]))
            style: dict[str, Any] = {"fmt": "o", "ms": 4.5, "lw": 1.4, "color": colour, "label": label}
            if flat:
                axes.errorbar(values[:, 0], at + shift, xerr=errors, **style)
            else:
                axes.errorbar(at + shift, values[:, 0], yerr=errors, **style)
        _axis(axes, flat, at, names)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    height = 0.9 + 0.34 * len(groups) if flat else 2.7
    alt = f"Share of rows not learned, by {what}, with intervals; the table beside it has the same numbers."
    return draw(5.2, max(height, 1.6), alt, plot)


def _axis(axes: Axes, flat: bool, at: np.ndarray, names: list[str]) -> None:
    if flat:
        axes.set_yticks(at, names)
        axes.set_ylim(len(at) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("not learned, %")
    else:
        axes.set_xticks(at, names, rotation=30 if len(at) > 6 else 0, ha="right" if len(at) > 6 else "center")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("not learned, %")
    axes.grid(axis="x" if flat else "y", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def base_against_tuned(judged: Judged) -> Picture:
    rows = judged.rows

    def plot(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=ink.grid, lw=1, zorder=0)
        if len(rows) > POINTS:
            shades = LinearSegmentedColormap.from_list("density", [ink.grid, ink.tuned])
            counts = axes.hexbin(
                rows["base_p"],
                rows["tuned_p"],
                gridsize=40,
                extent=(0, 1, 0, 1),
                bins="log",
                mincnt=1,
                cmap=shades,
                lw=0,
            )
            scale = figure.colorbar(counts, ax=axes, label="rows", fraction=0.04, format="%d")
            outline: Any = scale.outline  # some versions' types take it for another class
            outline.set_visible(False)
            scale.minorticks_off()
        else:
            for learned, colour, label in ((True, ink.tuned, "learned"), (False, ink.unlearned, "not learned")):
                own = rows[rows["unlearned"] != learned]
                style: dict[str, Any] = {"s": 13, "alpha": 0.65, "lw": 0, "color": colour, "label": label}
                axes.scatter(own["base_p"], own["tuned_p"], **style)
            axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xlabel("p(right option), base")
        axes.set_ylabel("p(right option), tuned")

    alt = "Each row's probability of the right option, base across, tuned up; on the diagonal nothing changed."
    return draw(4.4, 4.2, alt, plot)


def shift(judged: Judged) -> Picture:
    def plot(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        groups = [judged.rows.loc[judged.rows["unlearned"] == flag, "jsd"] for flag in (False, True)]
        bins = np.linspace(0, np.log(2), 29).tolist()
        axes.hist(groups, bins=bins, stacked=True, color=[ink.tuned, ink.unlearned], label=["learned", "not learned"])
        axes.axvline(JSD_CONFLICT, color=ink.faint, lw=1, ls=(0, (3, 3)))
        axes.set_xlabel("Jensen-Shannon divergence, nats (dashed: the paper's 0.3)")
        axes.set_ylabel("rows")
        axes.grid(axis="y", lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    alt = "Histogram of the shift of each row's option distribution from base to tuned."
    return draw(4.4, 2.9, alt, plot)


def loss_curve(log: pd.DataFrame) -> Picture:
    log = log.sort_values("step")
    smooth = log["loss"].ewm(span=max(len(log) / 20, 2)).mean()
    keep = np.unique(np.linspace(0, len(log) - 1, min(STEPS, len(log))).astype(int))

    def plot(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        axes.plot(log["step"].iloc[keep], log["loss"].iloc[keep], color=ink.base, lw=0.8, alpha=0.6, label="each step")
        axes.plot(log["step"].iloc[keep], smooth.iloc[keep], color=ink.tuned, lw=1.8, label="smoothed")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats a target token")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", lw=0.8)
        axes.tick_params(length=0)
        axes.legend(frameon=False, fontsize=8, loc="upper right")

    return draw(7.2, 2.6, "Training loss by optimizer step.", plot)


def agreement(protocols: list[str], pairs: list[dict[str, Any]]) -> Picture:
    """Kappa of every two protocols, numbered in the order of `protocols`; a pair without kappa stays empty."""
    at = {name: n for n, name in enumerate(protocols)}
    kappa = np.full((len(protocols), len(protocols)), np.nan)
    for pair in pairs:
        a, b = at[pair["a"]], at[pair["b"]]
        kappa[a, b] = kappa[b, a] = np.nan if pair["kappa"] is None else pair["kappa"]

    def plot(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("kappa", [ink.unlearned, ink.paper, ink.tuned])
        edges = np.arange(len(protocols) + 1) + 0.5
        cells = axes.pcolormesh(edges, edges, kappa, cmap=shades, vmin=-1, vmax=1, rasterized=True)
        axes.set(aspect="equal", xlabel="protocol", ylabel="protocol")
        axes.invert_yaxis()
        axes.tick_params(length=0)
        scale = figure.colorbar(cells, ax=axes, label="kappa", fraction=0.04)
        outline: Any = scale.outline
        outline.set_visible(False)

    return draw(4.4, 4.0, "Cohen's kappa of every two protocols, numbered as in the table of protocols.", plot)


def _label(name: str) -> str:
    """Short, and without the control characters that XML cannot hold."""
    flat = "".join(c if c.isprintable() else " " for c in str(name))
    return flat if len(flat) <= 28 else flat[:27] + "…"
