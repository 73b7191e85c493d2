"""Rows, scores and a training record made by hand, so that each signal has one right value."""

import numpy as np
import pandas as pd

from ilpjax.rows import Item, Message, Row


def row(row_id: str, prompt: str, response: str) -> Row:
    messages = (Message("user", prompt), Message("assistant", response))
    return Row(row_id=row_id, messages=messages, dataset="d", position=0, source="f:1")


def item(row_id: str, prompt: str, options: tuple[str, ...], answer: int = 0) -> Item:
    return Item(row_id=row_id, question=prompt, options=options, answer=answer)


def probed(lines: list[tuple[list[float], list[float]]], answer: int = 0) -> pd.DataFrame:
    """A line a probe: p with the question, and without it."""
    table = scores({str(n): p for n, (p, _) in enumerate(lines)}, answer)
    logs = lambda which: [np.log(line[which]).tolist() for line in lines]
    return table.assign(option_logprob=logs(0), control_logprob=logs(1))


def scores(p: dict[str, list[float]], answer: int = 0, nats: float = 2.0) -> pd.DataFrame:
    lines = [
        {
            "row_id": row_id,
            "order": 0,
            "protocol": "cloze",
            "p": values,
            "answer": answer,
            "option_logprob": [-nats] * len(values),
            "option_tokens": [4] * len(values),
        }
        for row_id, values in p.items()
    ]
    return pd.DataFrame(lines)


def visits(row_id: str, loss: list[float], greedy: list[float], first: int = 1) -> pd.DataFrame:
    steps = range(first, first + len(loss))
    return pd.DataFrame(
        {"row_id": row_id, "step": steps, "loss": loss, "p_right": [0.5] * len(loss), "greedy": greedy, "tokens": 3}
    )
