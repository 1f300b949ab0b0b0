"""act(gate) * up of a gated MLP, which keeps gate and up alone: act(gate) is computed again on the
way back, by the same operations, so that the bits are those of the plain product."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch


class _Gated(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any, act: Any) -> Any:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            own = gate.detach().requires_grad_()
            bent = ctx.act(own)
        (of_gate,) = torch.autograd.grad(bent, own, gradient * up)
        return of_gate, gradient * bent.detach(), None


def fuse(mlp: Any) -> None:
    """Let a transformers MLP with a gate of its own compute so."""
    mlp.forward = partial(_run, mlp)


def _run(mlp: Any, x: Any) -> Any:
    return mlp.down_proj(_Gated.apply(mlp.gate_proj(x), mlp.up_proj(x), mlp.act_fn))
