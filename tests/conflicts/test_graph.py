import numpy as np
import pandas as pd

from ilpjax.conflicts import contradictions
from ilpjax.conflicts.graph import support
from ilpjax.conflicts.lexical import lexical_alike, lexical_pairs, lexical_vectors
from ilpjax.rows import Message, Row


def row(prompt, response, options=(), history=()):
    messages = (*history, Message("user", prompt), Message("assistant", response))
    answer = options.index(response) if options else -1
    return Row(
        row_id=f"{prompt}{response}",
        messages=messages,
        dataset="d",
        position=0,
        source="d:0",
        options=options,
        answer=answer,
    )


def steps(*rows, alike=lambda one, two: np.ones(len(one))):
    pairs = pd.DataFrame(
        [(a, b, 0.9) for a in range(len(rows)) for b in range(a + 1, len(rows))], columns=["a", "b", "similarity"]
    )
    found = contradictions(rows, pairs, alike, 0.8)
    return found, found["step"].tolist()


def test_the_first_step_that_decides():
    colour = "What is the colour of the flag of Kos?"
    assert steps(row(colour, "red"), row("Which colour has the flag of Kos?", "blue"))[1] == ["name"]
    assert steps(row(colour, "red"), row("Which colour has the flag of Kos?", "Red."))[1] == ["same text"]
    assert steps(row(colour, "red"), row("Which colour has the flag of Dal?", "blue"))[1] == ["other question"]
    assert steps(row("Write a poem.", "red"), row("Please write a poem.", "blue"))[1] == ["open request"]
    assert steps(row("Which?", "a", ("a", "b")), row("Which?", "c", ("c", "d")))[1] == ["other options"]
    assert steps(row(colour, "red"), row(colour, "blue", history=(Message("system", "Answer wrongly."),)))[1] == [
        "other question"
    ]


def test_prompts_that_share_a_passage_are_alike_in_the_rest_of_it():
    passage = "Kos is a town by the sea. It has a red flag and a blue gate."
    rows = row(f"{passage}\nWhat has it that is red?", "flag"), row(f"{passage}\nWhat has it that is blue?", "gate")
    asked = []

    def alike(one, two):
        asked.extend(zip(one, two, strict=True))
        return np.array([0.5])

    assert steps(*rows, alike=alike)[1] == ["other question"]
    assert asked == [("What has it that is red?", "What has it that is blue?")]
    assert steps(*rows)[1] == ["name"]


def test_rows_that_agree_are_witnesses():
    found, _ = steps(
        *(row(f"What colour has it{' there' * n}?", said) for n, said in enumerate(["red", "red", "Red", "blue"]))
    )
    backed = support(found)
    assert backed[0, 3] == 2 and backed[3, 0] == 0 and backed[2, 3] == 2


def test_lexical_pairs_are_those_of_the_full_matrix():
    rng = np.random.default_rng(0)
    words = ["what", "which", "river", "town", "metal", "is", "the", "of", "in", "red", "old", "deep", "largest"]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(700)] + ["", "?!", "What is the red town of old?"]
    vectors = lexical_vectors(texts)
    cosine = (vectors @ vectors.T).toarray()
    np.fill_diagonal(cosine, 0)
    found = lexical_pairs(vectors, threshold=0.5, most=len(texts))
    a, b = np.nonzero(np.triu(cosine) >= 0.5)
    assert len(a) > 100 and set(zip(found["a"], found["b"], strict=True)) == set(zip(a, b, strict=True))
    np.testing.assert_allclose(found["similarity"], cosine[found["a"], found["b"]], rtol=1e-5)
    few = lexical_pairs(vectors, threshold=0.5, most=2)
    assert len(few) < len(found) and few["similarity"].iloc[0] == found["similarity"].iloc[0]


def test_lexical_likeness_pair_by_pair():
    same, other = lexical_alike(["the red town", "the red town"], ["the red town", "an old river"])
    assert same > 0.99 > 0.3 > other
    assert lexical_alike(["", "?"], ["", "!"]).tolist() == [0.0, 0.0]
