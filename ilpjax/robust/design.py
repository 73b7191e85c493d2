"""Which protocols a row is judged under: seven factors, thinned so that every two levels that can meet do meet."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import combinations, product

from ilpjax.config import RobustnessJob, RunJob

FACTORS = ("scoring", "decoding", "order", "source", "count", "wording", "dtype")
# RUN/robustness.parquet, a line a row, protocol and half. half: 0 for all, 1 and 2 for disjoint halves of the draws or
# orders (none for a protocol without chance). n: draws or orders behind the line. p_pass: E[pass@N], or the share of
# right ones among n real draws. chance: a guesser's p_pass, 1 over the options shown; 0 for free-form. flagged: p_pass
# under detect.threshold. flagged_corrected: the guess-corrected skill's upper end under detect.skill_threshold; null
# where it means nothing. predicted: an option of the item, -1 for none.
VERDICT = ("p_pass", "chance", "flagged", "flagged_corrected", "predicted")
COLUMNS = ("row_id", "protocol", *FACTORS, "half", "n", *VERDICT)
FREE = ("free-em", "free-f1", "free-rouge_l", "free-choice")
TEMPERATURE = {"t0.3": 0.3, "t0.7": 0.7, "t1": 1.0, "top_p": 1.0}  # of the decodings that draw
SHOWN = {"k2": 2, "k3": 3}  # options left, the right one among them


@dataclass(frozen=True)
class Protocol:
    """One way to judge a row. scoring `control`: the options without the question, scored as the run scores."""

    scoring: str
    decoding: str
    order: str  # own: the item's order; permuted: several, run r under order r mod R
    source: str  # whose distractors: the item's own, or answers to the nearest questions, or of rows drawn at random
    count: str  # all options, or k2, k3
    wording: str  # train: as the template has it; w1 ... w3: paraphrases
    dtype: str

    @property
    def name(self) -> str:
        return "/".join(astuple(self))

    @property
    def free(self) -> bool:
        return self.scoring in FREE


@dataclass(frozen=True)
class Pass:
    """One distinct forward pass over the rows, which many protocols read."""

    kind: str  # cloze, letter, free
    decoding: str  # of free; the others are decoded in closed form
    orders: int
    source: str
    wording: str
    dtype: str

    @property
    def name(self) -> str:
        parts = [self.kind, self.decoding, self.source, self.wording, self.dtype]
        return "-".join(part for part in parts if part)


def own_protocol(run: RunJob, dtype: str) -> Protocol:
    """How the run judges: its scores at temperature 1. The centre of the grid."""
    cloze = run.score.protocol == "cloze"
    scoring = f"cloze-{run.score.normalise}" if cloze else "letter"
    order = "own" if cloze or run.score.orders == 1 else "permuted"
    return Protocol(scoring, "t1", order, "own", "all", "train", dtype)


def pass_of(protocol: Protocol, own: Protocol, run: RunJob, job: RobustnessJob) -> Pass:
    kind = "free" if protocol.free else protocol.scoring.split("-")[0]
    kind = run.score.protocol if kind == "control" else kind
    orders = 1
    if kind == "letter":
        several = run.score.protocol == "letter" and run.score.orders > 1
        orders = run.score.orders if several else job.permutations if "permuted" in job.orders else 1
    if protocol == own and run.score.protocol == "letter":
        orders = run.score.orders
    decoding = protocol.decoding if kind == "free" else ""
    return Pass(kind, decoding, orders, protocol.source, protocol.wording, protocol.dtype)


def design(run: RunJob, job: RobustnessJob, dtype: str) -> list[Protocol]:
    """The run's own protocol first; each factor moved alone from it, and from free-choice at temperature 1 and greedy;
    then the fewest closed-form protocols (chosen greedily) in which every two levels meet that can without a pass of
    their own. A level that the job leaves out is in no protocol but the run's own."""
    own = own_protocol(run, dtype)
    levels: dict[str, Sequence[str]] = {
        "scoring": job.scorings,
        "decoding": job.decodings,
        "order": job.orders,
        "source": job.sources,
        "count": job.counts,
        "wording": job.wordings,
        "dtype": job.dtypes,
    }
    free = replace(own, scoring="free-choice", order="own")
    centres = (own, free, replace(free, decoding="greedy"))
    stars = [replace(centre, **{name: level}) for centre in centres for name in FACTORS for level in levels[name]]
    letter = replace(own, scoring="letter", order="permuted")
    stars += [letter, replace(letter, scoring="letter-debiased")]
    allowed = lambda one: one == own or all(getattr(one, name) in levels[name] for name in FACTORS)
    found = [own, *(one for one in stars if allowed(one) and _sensible(one, own))]
    every = (Protocol(*values) for values in product(*levels.values()))
    others = [one for one in every if not one.free and _sensible(one, own) and _no_pass_of_its_own(one, own)]
    return _cover(list(dict.fromkeys(found)), others, own)


def _sensible(one: Protocol, own: Protocol) -> bool:
    """Whether the levels can stand together."""
    if one.free:  # no options are shown, and each is a pass: other wordings for greedy alone, which costs least
        worded = one.wording == "train" or (one.decoding == "greedy" and one.scoring == "free-choice")
        return worded and (one.order, one.source, one.count, one.dtype) == ("own", "own", "all", own.dtype)
    if one.scoring == "control":  # there is no question to word
        return one.decoding in ("greedy", "t1") and one.wording == "train" and one.order == own.order
    return one.decoding != "beam" and (one.order == "own" or one.scoring.startswith("letter"))


def _no_pass_of_its_own(one: Protocol, own: Protocol) -> bool:
    """At most one of what makes a forward pass differs from the run's own."""
    letter = lambda protocol: protocol.scoring.startswith("letter")
    same_kind = one.scoring == "control" or letter(one) == letter(own)
    return (not same_kind) + sum(
        getattr(one, name) != getattr(own, name) for name in ("source", "wording", "dtype")
    ) < 2


def _cover(found: list[Protocol], others: Sequence[Protocol], own: Protocol) -> list[Protocol]:
    """`found`, and of the others always the one with the most pairs of levels not seen yet, nearest to `own`."""
    pairs = lambda one: set(combinations([(f.name, getattr(one, f.name)) for f in fields(one)], 2))
    moved = {one: sum(getattr(one, name) != getattr(own, name) for name in FACTORS) for one in others}
    of = {one: pairs(one) for one in others}
    missing = set().union(*of.values()) - set().union(*map(pairs, found))
    while missing:
        best = max(others, key=lambda one: (len(of[one] & missing), -moved[one]))
        found.append(best)
        missing -= of[best]
    return found
