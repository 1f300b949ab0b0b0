"""A model of a family without a row, as its GGUF file describes it: llama.cpp knows the rest.

Modules are called as the file calls their tensors ("blk.0.attn_q"). Only those are listed to which
llama.cpp applies a delta in the graphs of most families: attention, feed-forward, embedding, head,
and the projections around a recurrent state
(llama-graph.cpp, build_lora_mm). engines/llama/acting.py tries whether it does in this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorakit.architectures.decoder import Architecture, Decoder, Layer, ModuleShape
from lorakit.architectures.layouts import Layout

EMBEDDING, OUTPUT = "token_embd", "output"
VERBATIM = Layout(
    root="",
    embedding=EMBEDDING,
    blocks="blk",
    final_norm="output_norm",
    norms=(),
    gguf_norms=(),
    linears=(),
    verbatim=True,
)
_ADAPTED = re.compile(
    r"blk\.(?:0|[1-9]\d{0,3})\."
    r"(?:attn_(?:q|k|v|qkv|output)|ffn_(?:gate|up|down)(?:_exps|_shexp)?|ffn_gate_inp"
    r"|ssm_(?:in|x|dt|out)|shortconv\.(?:in_proj|out_proj))",
    re.ASCII,
)


def foreign(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    layers: int,
    hidden: int,
    vocabulary: int,
    context: int,
) -> Decoder:
    """A Decoder of a file of this architecture, with these tensors.

    What only a graph of ours needs is left at 1: such a model runs in llama.cpp alone.
    """
    row = Architecture(
        model_type=name,
        model_class="",
        layout=VERBATIM,
        gguf=name,
        default_context=context,
        layers=lambda fields, count: (Layer(window=None, rope=None),) * count,
    )
    return Decoder(
        architecture=row,
        hidden=hidden,
        intermediate=1,
        heads=1,
        kv_heads=1,
        head_dim=1,
        vocabulary=vocabulary,
        context=context,
        eps=1.0,
        attention_scale=1.0,
        activation="",
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        tied=f"{OUTPUT}.weight" not in shapes,
        logit_softcap=None,
        layers=(Layer(window=None, rope=None),) * layers,
        read=tuple(_modules(shapes)),
    )


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, ModuleShape]]:
    found = []
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module == name or len(shape) not in (2, 3):
            continue
        if module != EMBEDDING and module != OUTPUT and not _ADAPTED.fullmatch(module):
            continue
        inputs, outputs = shape[-1], shape[-2]
        if module == EMBEDDING:  # rows are looked up
            inputs, outputs = outputs, inputs
        experts = shape[0] if len(shape) == 3 else None
        found.append(
            (
                module,
                ModuleShape(
                    in_features=inputs,
                    out_features=outputs,
                    embedding=module == EMBEDDING,
                    experts=experts,
                ),
            )
        )
    return found
