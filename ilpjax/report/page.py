"""report.html: the numbers in words, tables and pictures, and the rows for the browser's table."""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ilpjax.report import plots
from ilpjax.report.cards import TEXT, clip, page_data, script_json
from ilpjax.report.contradictions import KIND, VERDICT, pair_texts
from ilpjax.report.frame import Judged
from ilpjax.report.tables import Tables

MOST_GROUPS = 30  # data sets in the picture; the table has all


def render(numbers: dict[str, Any], tables: Tables, judged: Judged) -> str:
    """The whole page. Data is escaped by jinja2, or is JSON that the script puts into text nodes."""
    css, js = _asset("page.css"), _asset("page.js")
    page = page_data(tables, judged)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"pct": pct, "pc": _percent, "pc0": _whole_percent, "num": num, "dec": dec, "dec2": dec2}
    environment.filters |= {"words": words, "clip": lambda text, most: str(text)[:most]}
    environment.filters |= {
        "ends": lambda text: clip(text, TEXT // 4),
        "ruling": lambda kind: VERDICT.get(kind, kind),
        "differ": lambda kind: KIND.get(kind, kind),
    }
    return environment.from_string(_asset("page.html")).render(
        n=numbers,
        css=Markup(css),
        js=Markup(js),
        policy=_policy(css, js),
        lines=Markup(_lines(page, numbers, tables, judged)),
        cards=Markup(page["cards"]),
        strip=_strip(numbers, tables, judged),
        subtitle=_subtitle(numbers, tables),
        findings=findings(numbers),
        shown=_shown(page, numbers),
        plots=_plots(numbers, tables, judged),
        pairs=pair_texts(numbers, tables),
        protocols=_protocols(numbers),
        dataset_note=_dataset_note(numbers),
        length_note=_length_note(numbers),
        position_note=_position_note(numbers),
        untrained=tables.untrained,
        outdated=tables.outdated,
        facts=_facts(numbers, tables),
        config_text=yaml.safe_dump(tables.config, sort_keys=False, allow_unicode=True) if tables.config else "",
        environment_text=yaml.safe_dump(tables.environment, sort_keys=False) if tables.environment else "",
    )


def findings(n: dict[str, Any]) -> list[str]:
    """A few sentences, each only where it says something: an interval above the whole, a count that is not 0."""
    out = []
    if not n["judged"]:
        return ["No row could be made a multiple-choice item; see the plumbing problems."]
    taught, known, lost, never = (
        num(n["base_vs_tuned"]["corrected"][key]["n"]) for key in ("learned", "already_known", "lost", "never_learned")
    )
    out.append(
        f"In corrected mode fine-tuning taught {taught} rows; {known} were known before,"
        f" {lost} were known and are lost, {never} were never learned."
    )
    for key, what in (("by_dataset", "data set"), ("by_length", "length"), ("by_position", "position")):
        worst = max(n[key], key=lambda group: group["unlearned"]["share"] or 0)
        s = worst["unlearned"]
        if len(n[key]) > 1 and (s["low"] or 0) > n["unlearned"]["share"]:
            name = f"{worst['name']} {worst.get('unit', '')}".strip()
            span = f"({_percent(s['low'])}–{_percent(s['high'])})"
            out.append(f"Worst by {what}: {name} with {pct(s['share'])} not learned {span}, n = {num(s['of'])}.")
    if n["plumbing"]["unlearned"]:
        of = f"{num(n['plumbing']['unlearned'])} of the {num(n['unlearned']['n'])} rows not learned"
        out.append(f"{of} have a plumbing problem: mend these before looking for a cause.")
    between = n["unlearned_corrected"]["n"] - n["both_modes"]["n"]
    if between:
        out.append(
            f"{num(between)} more rows pass the paper's rule but are not shown to beat guessing; on fresh draws"
            f" the paper's rule would flag {pct(n['expected_flagged'])} of all rows."
        )
    control = n["control"]
    if control and control["tuned"]["low"] is not None and control["tuned"]["low"] > control["chance"]:
        out.append(
            f"The tuned model finds the right option without the question for {pct(control['tuned']['share'])} of rows"
            f" (chance {pct(control['chance'])}): the options give part of it away."
        )
    if control and control["artefact"] and control["artefact"]["n"]:
        out.append(
            f"For {num(control['artefact']['n'])} rows the options alone, without the question, already give the"
            " verdict: it tells of the conversion to multiple choice, not of the row."
        )
    return out


def pct(share: float | None) -> str:
    return "–" if share is None else f"{_percent(share)}\u00a0%"


def num(n: float | None) -> str:
    return "–" if n is None else f"{n:,.10g}" if n == int(n) else f"{n:,.1f}"


def dec(x: float | None) -> str:
    return "–" if x is None else f"{x:.3f}".replace("-", "−")


def dec2(x: float | None) -> str:
    return "–" if x is None else f"{x:.2f}".replace("-", "−")


def words(kind: str) -> str:
    return str(kind).replace("_", " ")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _whole_percent(share: float) -> str:
    return f"{100 * share:g}"


def _asset(name: str) -> str:
    return resources.files("ilpjax.report").joinpath(name).read_text(encoding="utf-8")


def _policy(css: str, js: str) -> str:
    """Nothing loads but data: pictures and exactly this style sheet and this script."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}';"
        " base-uri 'none'; form-action 'none'"
    )


def _lines(page: dict[str, Any], n: dict[str, Any], tables: Tables, judged: Judged) -> str:
    meta = {
        "runs": n["detect"]["runs"],
        "threshold": n["detect"]["threshold"],
        "orders": n["orders"],
        "judged": n["judged"],
        "severe": n["severe"]["n"],
        "length_unit": judged.length_unit,
        "untrained": tables.untrained,
    }
    return f'{{"meta":{script_json(meta | page["names"])},"lines":{page["lines"]}}}'


def _strip(n: dict[str, Any], tables: Tables, judged: Judged) -> list[dict[str, Any]]:
    """The bar under the answer: every row once."""
    rows = judged.rows
    guess = int((rows["unlearned_corrected"] & ~rows["unlearned"]).sum())
    parts = [
        ("unlearned", "not learned", n["unlearned"]["n"]),
        ("guess", "passes, but not shown to beat guessing", guess),
        ("learned", "learned", n["judged"] - n["unlearned"]["n"] - guess),
        ("none", "no verdict", n["no_verdict"]),
    ]
    strip, x = [], 0.0
    for kind, label, count in parts:
        width = 1000 * count / max(n["rows"], 1)
        if count:
            strip.append({"kind": kind, "label": label, "n": count, "x": x, "w": width})
        x += width
    return strip


def _shown(page: dict[str, Any], n: dict[str, Any]) -> str:
    """What the table holds, and what it leaves out."""
    text = f"All {num(page['of'])} rows, worst first. A click on a row, or its arrow, opens its card."
    if page["shown"] < page["of"]:
        left = n["unlearned"]["n"] - page["unlearned_shown"]
        text = f"The {num(page['shown'])} worst of {num(page['of'])} rows; the others are in detect.parquet"
        text += f", {num(left)} of them not learned." if left else ", none of them not learned."
    if page["carded"] < page["shown"]:
        text += f" The first {num(page['carded'])} have a full card ({num(page['unlearned_carded'])} of the"
        text += f" {num(n['unlearned']['n'])} rows not learned); the texts of the others are in rows.parquet."
    return text


def _plots(n: dict[str, Any], tables: Tables, judged: Judged) -> dict[str, Any]:
    drawn: dict[str, Any] = {"dataset": None}
    if n["judged"]:
        sets = [group for group in n["by_dataset"] if group["n"]][:MOST_GROUPS]
        drawn["dataset"] = plots.by_group(sets, "data set", flat=True) if len(sets) > 1 else None
        drawn["length"] = plots.by_group(n["by_length"], "response length", flat=False)
        drawn["position"] = plots.by_group(n["by_position"], "position in the training order", flat=False)
        drawn["scatter"], drawn["shift"] = plots.base_against_tuned(judged), plots.shift(judged)
    if n["robust"]:
        agreement = tables.robust["agreement"]
        drawn["agreement"] = plots.agreement(agreement["protocols"], agreement["pairs"])
    if n["training"] and tables.train_log is not None:
        drawn["loss"] = plots.loss_curve(tables.train_log)
    return drawn


def _protocols(n: dict[str, Any]) -> list[dict[str, Any]]:
    """What every protocol flags, with its number in the picture (those that vote) and its test-retest kappa."""
    if not n["robust"]:
        return []
    number = {name: at for at, name in enumerate(n["robust"]["agreement"]["protocols"], start=1)}
    again = {half["protocol"]: half for half in n["robust"]["retest"]["halves"]}
    return [
        one | {"number": number.get(one["rule"]), "again": again.get(one["rule"])} for one in n["robust"]["prevalence"]
    ]


def _dataset_note(n: dict[str, Any]) -> str:
    sets = sum(group["n"] > 0 for group in n["by_dataset"])
    return f"The picture shows the first {MOST_GROUPS} of {sets} data sets." if sets > MOST_GROUPS else ""


def _length_note(n: dict[str, Any]) -> str:
    unit = n["by_length"][0]["unit"] if n["by_length"] else ""
    if unit == "tokens":
        return "Target tokens of the response, in bins of about equal size."
    return "UTF-8 bytes of the response, in bins of about equal size (training did not count every row's tokens)."


def _position_note(n: dict[str, Any]) -> str:
    by = n["by_position"][0]["by"] if n["by_position"] else ""
    if by == "training":
        return "Tenths of the rows by the step at which training last saw them: the first were left longest ago."
    return "Tenths of the rows in the file's order: training's own order is not recorded for every one."


def _subtitle(n: dict[str, Any], tables: Tables) -> str:
    """The run in a line: models, protocol, N and T."""
    config = tables.config
    models = f"{config.get('base', 'base not recorded')} → {config.get('tuned') or 'tuned here'}" if config else ""
    orders = f"{n['orders']} option order{'s' if n['orders'] != 1 else ''}"
    rule = f"N = {n['detect']['runs']}, T = {n['detect']['threshold']}"
    seed = f"seed {config['seed']}" if "seed" in config else ""
    return " · ".join(part for part in (models, f"{n['protocol']}, {orders}", rule, seed) if part)


def _facts(n: dict[str, Any], tables: Tables) -> list[tuple[str, str]]:
    """What was run, as far as config.yaml and environment.json tell."""
    config, environment = tables.config, tables.environment
    sft, rows = config.get("sft") or {}, config.get("rows")
    names = ", ".join(map(str, rows)) if isinstance(rows, list) else rows
    trained = f"trained here: {sft['epochs']} epochs, peak lr {sft['lr']}" if {"epochs", "lr"} <= set(sft) else None
    versions = environment.get("versions") or {}
    facts = [
        ("Base", config.get("base")),
        ("Tuned", config.get("tuned") or trained),
        ("Rows from", names),
        ("Rows", f"{num(n['rows'])}, {num(n['judged'])} with a verdict"),
        ("Protocol", n["protocol"]),
        ("Option orders", n["orders"]),
        ("Score that gives p", (config.get("score") or {}).get("normalise")),
        ("N, T", f"{n['detect']['runs']}, {n['detect']['threshold']}"),
        ("Skill threshold", n["detect"]["skill_threshold"]),
        ("Seed", config.get("seed")),
        ("Versions", ", ".join(f"{name} {versions[name]}" for name in ("ilpjax", "jax", "flax") if name in versions)),
        ("Python", environment.get("python")),
        ("Devices", ", ".join(environment.get("devices") or [])),
        ("Commit", environment.get("commit")),
    ]
    return [(key, "not recorded" if value in (None, "") else str(value)) for key, value in facts]
