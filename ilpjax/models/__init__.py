"""One decoder for three families, weights from and to Hugging Face checkpoints, log-probs; sentence encoders."""

from ilpjax.models.attention import attention, choose_attention, describe_attention, tree_mask
from ilpjax.models.cross_entropy import weighted_nats, weighted_nats_reference
from ilpjax.models.hf import load_model, read_spec, resolve, save_model
from ilpjax.models.model import (
    Model,
    Params,
    compute_dtype,
    define,
    init_model,
    param_axes,
    param_shapes,
    param_shardings,
)
from ilpjax.models.sentence import SentenceModel, load_sentence_model
from ilpjax.models.spec import ModelSpec, Rope

__all__ = [
    "Model",
    "ModelSpec",
    "Params",
    "Rope",
    "SentenceModel",
    "attention",
    "choose_attention",
    "compute_dtype",
    "define",
    "describe_attention",
    "init_model",
    "load_model",
    "load_sentence_model",
    "param_axes",
    "param_shapes",
    "param_shardings",
    "read_spec",
    "resolve",
    "save_model",
    "tree_mask",
    "weighted_nats",
    "weighted_nats_reference",
]
