"""Model folders: `config.json` and `model.safetensors` with Hugging Face names, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file


class ModelError(ValueError):
    """Weights or configuration are missing, damaged, or not of this architecture."""


@dataclass(frozen=True)
class Config:
    """The fields of a Hugging Face `config.json` that the forward pass needs; the names are theirs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float

    @property
    def scale(self) -> float:
        """The factor on the scores, `head_dim ** -0.5`."""
        return float(self.head_dim**-0.5)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, by its Hugging Face name."""
        hidden, inner = self.hidden_size, self.intermediate_size
        q_size, kv_size = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (hidden,),
                f"{prefix}.self_attn.q_proj.weight": (q_size, hidden),
                f"{prefix}.self_attn.k_proj.weight": (kv_size, hidden),
                f"{prefix}.self_attn.v_proj.weight": (kv_size, hidden),
                f"{prefix}.self_attn.o_proj.weight": (hidden, q_size),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
                f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
                f"{prefix}.mlp.up_proj.weight": (inner, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            }
        return shapes


def read_model(folder: Path) -> tuple[Config, dict[str, NDArray[Any]]]:
    """Read a model folder.

    Returns
    -------
    tuple
        The configuration, and every tensor by its Hugging Face name in its stored type (float16 or float32).

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the architecture, a shape, a type or a number is not what it must be.
    """
    config = read_config(folder / "config.json")
    file = folder / "model.safetensors"
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; a model folder holds config.json and model.safetensors") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error})") from error
    except (KeyError, TypeError) as error:
        raise ModelError(f"{file}: holds a type that NumPy lacks ({error}); export the weights as float16") from error
    shapes = config.shapes()
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise ModelError(f"{file}: {len(missing)} tensors are missing, the first is {missing[0]}")
    if surplus := sorted(tensors.keys() - shapes.keys()):
        raise ModelError(f"{file}: {len(surplus)} tensors are not part of this architecture, the first is {surplus[0]}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ModelError(f"{file}: {name} has shape {list(tensor.shape)}, config.json implies {list(shape)}")
        if tensor.dtype not in (np.float16, np.float32):
            raise ModelError(f"{file}: {name} is {tensor.dtype}, expected float16 or float32")
        if not np.isfinite(tensor).all():
            where = [int(index) for index in np.argwhere(~np.isfinite(tensor))[0]]
            raise ModelError(f"{file}: {name} is not finite at {where}")
    return config, tensors


def read_config(file: Path) -> Config:
    """Read and check `config.json`; raises ModelError."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; a model folder holds config.json and model.safetensors") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: not readable JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("model_type") != "llama":
        raise ModelError(f"{file}: model_type must be 'llama'")
    for key, wanted in (("tie_word_embeddings", True), ("attention_bias", False), ("mlp_bias", False)):
        if raw.get(key, False) != wanted:
            raise ModelError(f"{file}: {key} must be {str(wanted).lower()}")
    if raw.get("hidden_act", "silu") != "silu" or raw.get("rope_scaling"):
        raise ModelError(f"{file}: only hidden_act 'silu' without rope_scaling is supported")
    values: dict[str, Any] = {}
    for field in fields(Config):
        value = raw.get(field.name)
        kinds = (int, float) if field.type == "float" else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            raise ModelError(f"{file}: {field.name} must be a positive {field.type}, got {value!r}")
        values[field.name] = value
    config = Config(**values)
    if config.num_attention_heads % config.num_key_value_heads:
        raise ModelError(
            f"{file}: {config.num_attention_heads} query heads are no multiple of {config.num_key_value_heads} KV heads"
        )
    if config.head_dim % 2:
        raise ModelError(f"{file}: head_dim must be even for RoPE, got {config.head_dim}")
    return config
