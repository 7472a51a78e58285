"""The model in torch: Llama architecture with Hugging Face tensor names. Used to train and to evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 424,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rope_theta": 200000.0,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "use_cache": True,
    "torch_dtype": "float16",
}


def rotary_tables(config: dict[str, Any], length: int, dtype: torch.dtype, device: Any) -> tuple[Tensor, Tensor]:
    """Return cos and sin `[length, head_dim]`, computed in float64, for the rotate-half convention."""
    half = torch.arange(0, config["head_dim"], 2, dtype=torch.float64, device=device)
    frequency = config["rope_theta"] ** (-half / config["head_dim"])
    angle = torch.arange(length, dtype=torch.float64, device=device)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to `x [batch, heads, tokens, head_dim]`, in the tables' type, and return x's type."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def round_to_half(x: Tensor) -> Tensor:
    """Round to float16, to nearest even, and return x's type.

    Through NumPy, because torch converts float64 to float16 by way of float32: it rounds twice.
    """
    return torch.from_numpy(x.numpy().astype(np.float16)).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, computed in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x`."""
        wide = x if x.dtype == torch.float64 else x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.to(wide.dtype)).to(x.dtype)


class Linear(nn.Linear):
    """A linear map without bias whose float32 weight follows the dtype of its input."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x [..., fan_in]` to `[..., fan_out]`."""
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Grouped-query attention with RoPE."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = config["head_dim"]
        hidden = config["hidden_size"]
        self.q_proj = Linear(hidden, self.heads * self.dim)
        self.k_proj = Linear(hidden, self.kv_heads * self.dim)
        self.v_proj = Linear(hidden, self.kv_heads * self.dim)
        self.o_proj = Linear(self.heads * self.dim, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, *, round_qkv: bool = False) -> Tensor:
        """Attend causally; `round_qkv` rounds q, k and v to float16 after RoPE, as the NumPy forward does."""
        batch, tokens, _ = x.shape
        q = rotate(self.q_proj(x).view(batch, tokens, self.heads, self.dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(batch, tokens, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.dim).transpose(1, 2)
        if round_qkv:
            q, k, v = (round_to_half(tensor) for tensor in (q, k, v))
        if x.dtype == torch.bfloat16:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:  # the kernels for wider types take no grouped heads
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, tokens, self.heads * self.dim))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj = Linear(hidden, inner), Linear(hidden, inner)
        self.down_proj = Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x [..., hidden]` to `[..., hidden]`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, *, round_qkv: bool = False) -> Tensor:
        """Map the residual stream `x [batch, tokens, hidden]`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, round_qkv=round_qkv)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The whole model, embeddings tied."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def initialise(self, seed: int) -> None:
        """Draw the starting weights; the maps that write to the residual stream start at zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.embed_tokens.weight.normal_(0.0, 0.03, generator=generator)
            for name, weight in self.layers.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.zero_()
                elif weight.ndim == 2:
                    weight.normal_(0.0, 0.7 * weight.shape[1] ** -0.5, generator=generator)

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32, *, round_qkv: bool = False) -> Tensor:
        """Return logits `[batch, tokens, vocab]` in at least float32 for `tokens [batch, tokens]` int64."""
        x = self.embed_tokens(tokens).to(dtype)
        table_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        cos, sin = rotary_tables(self.config, tokens.shape[1], table_dtype, tokens.device)
        for layer in self.layers:
            x = layer(x, cos, sin, round_qkv=round_qkv)
        logits = F.linear(self.norm(x), self.embed_tokens.weight.to(dtype))
        return logits if dtype == torch.float64 else logits.float()


def export(model: Llama, folder: Path, metadata: dict[str, str]) -> int:
    """Write float16 weights and the configuration to `folder`; return the size of the weights in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": t.detach().half().cpu().contiguous() for name, t in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} does not fit float16")
    file = folder / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt", **metadata})
    (folder / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    return file.stat().st_size


def load(folder: Path) -> Llama:
    """Load exported weights as float32."""
    model = Llama(json.loads((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()})
    return model.eval()
