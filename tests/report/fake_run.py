"""A plausible run directory, made of nothing: rows with hostile texts, scores drawn from a seed, real verdicts."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ilpjax import robust
from ilpjax.config import DetectConfig
from ilpjax.conflicts import KINDS
from ilpjax.detect import detect
from ilpjax.diagnose import CLASSES
from ilpjax.rundir import RunDir, read_table, write_json, write_table, write_text

NASTY = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"double\" 'single' `tick` \\backslash\\ \\u003c",
    "{{7*7}} {% raw %} ${7*7}",
    "مرحبا بالعالم \u202eevil\u202c שלום",
    "北京是中国的首都。日本語のテキスト",
    "line\u2028separator\u2029and \x07 bell, <!-- comment --> ]]> &amp; &lt;b&gt;",
    "x" * 20_000 + " what is the last letter?",
]
DATASETS = ["arc<b>easy</b>", "medmcqa", "people/世界", "$dolly$"]
CONTROL = ("control", "t1", "train")
TOPICS = ["river", "planet", "enzyme", "treaty", "painter", "metal", "capital", "theorem"]


def make_run(path: Path, rows: int = 300, *, orders: int = 2, trained: bool = True, seed: int = 0) -> RunDir:
    """Row i is of data set i % 4; every 25th row has no item; every 20th is plumbing."""
    rng, run = np.random.default_rng(seed), RunDir(path)
    table = pd.DataFrame(_row(i) for i in range(rows))
    write_table(run / "rows.parquet", table)
    kept = table[table["position"] % 25 != 24].reset_index(drop=True)
    items = pd.DataFrame(_item(i, row, kept, rng) for i, row in kept.iterrows())
    write_table(run / "items.parquet", items)
    know = np.select([kept["position"] % 4 == 0, kept["position"] % 4 == 1], [-0.5, 0.5], 1.5)
    base = score(items, rng.normal(0.2, 1.2, len(items)), orders, rng)
    tuned = score(items, rng.normal(know, 1.3), orders, rng)
    for which, verdict, scores in (("base", "detect_base", base), ("tuned", "detect", tuned)):
        write_table(run / f"scores_{which}.parquet", scores)
        write_table(run / f"{verdict}.parquet", detect(scores, DetectConfig()))
    write_table(run / "plumbing.parquet", _plumbing(table))
    write_table(run / "diagnose.parquet", _causes(detect(tuned, DetectConfig()), table, trained, rng))
    config = {"base": "tiny/base", "tuned": None if trained else "mine/tuned", "rows": "train.jsonl", "seed": 3}
    config |= {"out": str(path), "sft": {"epochs": 3.0, "lr": 1e-4}, "detect": DetectConfig().model_dump()}
    write_text(run / "config.yaml", yaml.safe_dump(config))
    write_json(run / "environment.json", {"python": "3.11.2", "versions": {"jax": "0.10.2"}, "devices": ["cpu:0"]})
    if trained:
        write_table(run / "dynamics.parquet", _dynamics(table, rng))
        steps = np.arange(1, 91)
        loss = 3.2 * np.exp(-steps / 30) + 0.4 + rng.normal(0, 0.08, len(steps))
        write_table(run / "train_log.parquet", pd.DataFrame({"step": steps, "loss": loss, "lr": 1e-4}))
    return run


def add_grid(run: RunDir, seed: int = 0) -> None:
    """Two out of three judged rows under eight protocols and a control; disjoint halves of all but the greedy ones."""
    rng, rows, verdicts = (
        np.random.default_rng(seed),
        read_table(run / "rows.parquet"),
        read_table(run / "detect.parquet"),
    )
    write_table(run / "verdicts.parquet", rows.merge(verdicts, "left", "row_id").assign(cause=""))
    ids, p = verdicts["row_id"][verdicts.index % 3 > 0], verdicts["pass_at_n"][verdicts.index % 3 > 0].to_numpy()
    own = {"scoring": "letter", "decoding": "t1", "order": "own", "source": "own", "count": "all", "wording": "train"}
    parts = []
    for scoring, decoding, wording in [*product(("letter", "cloze<b>"), ("t1", "greedy"), ("train", "w1")), CONTROL]:
        one = own | {"scoring": scoring, "decoding": decoding, "wording": wording, "dtype": "float32"}
        for half in (0,) if decoding == "greedy" else (0, 1, 2):
            drawn = np.clip(p + rng.normal(0, 0.15, len(p)), 0, 1)
            told = {"protocol": "/".join(one.values()), **one, "half": half, "n": 5, "p_pass": drawn}
            parts.append(pd.DataFrame({"row_id": ids, **told, "flagged": drawn < 0.2, "flagged_corrected": None}))
    write_table(run / "robustness.parquet", pd.concat(parts))
    robust.tell(run)


def add_conflicts(run: RunDir, encoder: str = "lexical", judge: str = "offline") -> None:
    """Every row that was diagnosed contradicts its partner; verdicts and kinds in turn, likeness falling."""
    causes, table = read_table(run / "diagnose.parquet"), []
    seen = {"a": "right", "b": "wrong"}
    for n, row_id in enumerate(causes["row_id"]):
        told = json.loads(causes.loc[n, "evidence"])
        verdict, kind = ("b", "a", "both", "neither", "undecided", "unjudged")[n % 6], KINDS[n % len(KINDS)]
        told["partner"]["verdict"] = seen.get(verdict, verdict)
        causes.loc[n, "evidence"] = json.dumps(told)
        who = "" if verdict == "unjudged" else judge
        table.append((row_id, told["partner"]["row_id"], 0.99 - n / 1000, kind, verdict, who, "{}", 0.0))
    found = pd.DataFrame(
        table, columns=["row_a", "row_b", "similarity", "kind", "verdict", "judge", "votes", "cost"]
    ).drop_duplicates(["row_a", "row_b"])
    write_table(run / "diagnose.parquet", causes)
    write_table(run / "conflicts.parquet", found.iloc[::-1])
    counts = [("other question", 50), ("same text", 30), ("unclear", 20), *found["kind"].value_counts().items()]
    pairs = sum(int(n) for _, n in counts)
    told = {"rows": 300, "encoder": encoder, "threshold": 0.5, "search": "exact", "recall": None, "pairs": pairs}
    told["steps"] = [{"step": step, "n": int(n), "share": int(n) / pairs} for step, n in counts]
    write_json(run / "conflicts.json", told | {"conflicts": len(found), "judge": judge, "verdicts": {}, "cost": 0.0})


def _row(i: int) -> dict:
    hostile = NASTY[i // 7 % len(NASTY)] if i % 7 == 0 else ""
    prompt = f"Question {i}: which {TOPICS[i % 8]} is meant by clue number {i * 37 % 101}? {hostile}".strip()
    response = f"The {TOPICS[i % 8]} of {i}" + " and so on" * (i % 12) + (hostile[:60] if i % 21 == 0 else "")
    messages = [["system", "Be brief."]] * (i % 10 == 0) + [["user", prompt], ["assistant", response]]
    return {
        "row_id": f"r{i:04d}" if i % 50 else f'id "{i}" <i>',
        "dataset": DATASETS[i % 4],
        "position": i,
        "source": f"train.jsonl:{i + 1}",
        "messages": json.dumps([{"role": role, "content": text} for role, text in messages]),
        "prompt": prompt,
        "response": response,
    }


def _item(i: int, row: pd.Series, rows: pd.DataFrame, rng: np.random.Generator) -> dict:
    count, answer = (3 if row["position"] % 4 == 3 else 4), int(rng.integers(3))
    others = rows.iloc[[(i + step) % len(rows) for step in (8, 16, 24)]]
    options, sources = others["response"].tolist()[: count - 1], others["row_id"].tolist()[: count - 1]
    options.insert(answer, row["response"])
    sources.insert(answer, "answer")
    if row["position"] % 4 == 0:
        sources = ["native"] * count
    kinds = {"row_id": row["row_id"], "question": row["prompt"], "history": "[]"}
    return kinds | {"options": options, "answer": answer, "option_sources": sources}


def score(items: pd.DataFrame, know: np.ndarray, orders: int, rng: np.random.Generator) -> pd.DataFrame:
    lines = []
    for (_, item), bonus in zip(items.iterrows(), know, strict=True):
        logits = rng.normal(0, 1, len(item["options"]))
        logits[item["answer"]] += bonus
        for order in range(orders):
            logprob = logits + rng.normal(0, 0.3, len(logits))
            p = np.exp(logprob) / np.exp(logprob).sum()
            pick, sizes = int(p.argmax()), [len(option.encode()) for option in item["options"]]
            lines.append(
                {
                    "row_id": item["row_id"],
                    "order": order,
                    "protocol": "letter",
                    "normalise": "raw",
                    "option_logprob": np.log(p).tolist(),
                    "option_tokens": [1] * len(p),
                    "option_bytes": sizes,
                    "control_logprob": rng.normal(0, 1, len(p)).tolist(),
                    "p": p.tolist(),
                    "predicted": pick,
                    "answer": item["answer"],
                    "correct": pick == item["answer"],
                }
            )
    return pd.DataFrame(lines)


def _plumbing(rows: pd.DataFrame) -> pd.DataFrame:
    kinds = ("truncated_response", "duplicate_option", "missing_eos")
    found = [
        {"row_id": row_id, "problem": kinds[n % 3], "detail": f"detail <u>{n}</u> of {row_id}"}
        for n, row_id in enumerate(rows["row_id"][::20])
    ]
    found += [
        {"row_id": row_id, "problem": "no_item", "detail": "no distractor found"}
        for row_id in rows["row_id"][rows["position"] % 25 == 24]
    ]
    return pd.DataFrame(found, columns=["row_id", "problem", "detail"])


def _causes(verdicts: pd.DataFrame, rows: pd.DataFrame, trained: bool, rng: np.random.Generator) -> pd.DataFrame:
    """Any cause for every row that was not learned; the partner's texts are hostile where its row's are."""
    faulty = set(_plumbing(rows)["row_id"])
    asked = verdicts.loc[verdicts["unlearned"] | verdicts["unlearned_corrected"], "row_id"]
    asked = [row_id for row_id in asked if row_id not in faulty]
    posterior = rng.dirichlet(np.full(len(CLASSES), 0.3), len(asked))
    table = pd.DataFrame(posterior, columns=[f"posterior_{name}" for name in CLASSES])
    table["row_id"], table["cause"] = asked, [CLASSES[n] for n in posterior.argmax(axis=1)]
    table["causes"] = [[cause] for cause in table["cause"]]
    table["cascade"] = rng.choice(CLASSES, len(asked))
    partners = rows.sample(len(asked), replace=True, random_state=0)
    training = dict.fromkeys(("loss_first", "loss_least", "loss_last", "loss_final", "learned_step", "place"), 0.5)
    base = dict.fromkeys(("right", "wrong", "probe_right", "probe_wrong", "agree", "blind"), 0.25)
    evidence = []
    for partner in partners.to_dict("records"):
        texts = {name: partner[name] for name in ("row_id", "prompt", "response")} | {"option": partner["response"]}
        told = {"base": base | {"exists": False}, "tuned": {"right": 0.1, "wrong": 0.6, "jsd": 0.2}}
        told |= {"training": training} if trained else {"missing": ["slope"]}
        told["partner"] = texts | {"similarity": 0.8, "tuned": 0.6, "against": 2}
        fact = {"subject": "<b>who</b>", "relation": "is", "object": partner["response"], "blind": True}
        evidence.append(json.dumps(told | {"facts": [fact]}))
    return table.assign(evidence=evidence)


def _dynamics(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for epoch in range(3):
        step = 30 * epoch + rng.permutation(len(rows)) * 30 // len(rows) + 1
        p = 1 / (1 + np.exp(-rng.normal(epoch - 0.5, 0.6, len(rows))))
        parts.append(
            pd.DataFrame(
                {
                    "row_id": rows["row_id"],
                    "step": step,
                    "epoch": epoch,
                    "loss": -np.log(p),
                    "p_right": p,
                    "greedy": (p > 0.5).astype(float),
                    "tokens": rows["response"].str.split().str.len() + 1,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
