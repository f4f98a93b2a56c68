"""MiMo in PyTorch, for training only: Qwen2's trunk and the MTP layer; module names give the tensor names.

Source: modeling_mimo.py of XiaomiMiMo/MiMo-7B-RL (trunk and MiMoMTPLayers); the MTP layer reads the hidden
state before the final norm, as Xiaomi's vLLM fork does.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimo_mobile.mimo7b import MimoConfig


class Attention(nn.Module):
    """Causal grouped-query attention with RoPE, `[B, T, E]` to `[B, T, E]`."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query)
        self.k_proj = nn.Linear(config.hidden_size, key)
        self.v_proj = nn.Linear(config.hidden_size, key)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """The output for x."""
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, rope), _rotate(k, rope)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1)))


class Mlp(nn.Module):
    """SwiGLU, `[B, T, E]` to `[B, T, E]`."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The output for x."""
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Layer(nn.Module):
    """A decoder layer."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """The output for x."""
        x = x + self.self_attn(self.input_layernorm(x), rope, mask)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class MtpLayer(Layer):
    """The multi-token-prediction layer: hidden state of t and embedding of token t+1, to predict token t+2."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__(config)
        self.token_layernorm = _norm(config)
        self.hidden_layernorm = _norm(config)
        self.input_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.final_layernorm = _norm(config)

    def predict(self, hidden: Tensor, embedded: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """`[B, T, E]` for lm_head; the hidden state's half comes first in input_proj."""
        joined = torch.cat((self.hidden_layernorm(hidden), self.token_layernorm(embedded)), dim=-1)
        return cast(Tensor, self.final_layernorm(self(self.input_proj(joined), rope, mask)))


class Trunk(nn.Module):
    """Everything but lm_head; `model.` in tensor names."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.mtp_layers = nn.ModuleList(MtpLayer(config) for _ in range(config.num_nextn_predict_layers))


class Mimo(nn.Module):
    """MiMoForCausalLM."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        residual = 0.02 / (2 * config.num_hidden_layers) ** 0.5
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(hidden state before the final norm, MTP output for lm_head), `[B, T, E]` and `[B, T-1, E]`.

        ``mask`` is `[B, 1, T, T]` bool, true where a row may look; without one every row looks back at all.
        """
        embedded = self.model.embed_tokens(ids)
        rope = self.rope(ids.shape[1])
        hidden = embedded
        for layer in self.model.layers:
            hidden = layer(hidden, rope, mask)
        mtp = cast(MtpLayer, self.model.mtp_layers[0])
        shorter = (rope[0][: ids.shape[1] - 1], rope[1][: ids.shape[1] - 1])
        fewer = None if mask is None else mask[:, :, :-1, :-1]
        return hidden, mtp.predict(hidden[:, :-1], embedded[:, 1:], shorter, fewer)

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, `[T, D]`, halves repeated (rotate_half)."""
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32) / self.config.head_dim
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self.config.rope_theta**-half)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def _norm(config: MimoConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (each.to(x.dtype) for each in rope)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
