"""What the tests of the algebra share: random adapters, and their deltas as dense matrices."""

import numpy as np

from lorakit.adapter import Adapter, Delta, Site

SHAPES = {"model.layers.0.mlp.up_proj": (24, 16), "model.layers.0.self_attn.q_proj": (12, 16)}


def delta(module, rank, seed, shape=None, scale=1.0, **options) -> Delta:
    rng = np.random.default_rng(seed)
    out, n_in = shape or SHAPES[module]
    lead = options.pop("lead", ())
    return Delta(
        module=module,
        a=rng.standard_normal((*lead, rank, n_in), np.float32),
        b=rng.standard_normal((*lead, out, rank), np.float32),
        scale=scale,
        **options,
    )


def adapter(seed, rank=3, scale=0.5, modules=tuple(SHAPES), **options) -> Adapter:
    return Adapter(
        deltas=tuple(delta(m, rank, [seed, i], scale=scale) for i, m in enumerate(modules)),
        **options,
    )


def embedding(seed, rank=2, site=Site.INPUT) -> Delta:
    return delta("model.embed_tokens", rank, seed, (16, 40), 0.7, site=site)


def dense(found: Adapter) -> dict:
    """scale * B @ A of every delta, in float64."""
    return {
        d.key: d.scale * (d.b.astype(np.float64) @ d.a.astype(np.float64)) for d in found.deltas
    }


def best(matrix, rank):
    """The full SVD, cut: what no matrix of that rank can beat."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)
