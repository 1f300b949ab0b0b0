"""A graph whose LoRA inputs are optional and named as Olive names them: what runs an .onnx_adapter.

Made of an export with `--adapters dynamic`, whose inputs are required and have an axis for rows.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def with_optional_loras(source: Path, target: Path) -> list[str]:
    """Write the graph beside its weights; returns the names of the inputs that an adapter gives."""
    model = onnx.load(source, load_external_data=False)
    graph, names = model.graph, []
    kept = [each for each in graph.input if ".lora_" not in each.name]
    loras = [each for each in graph.input if ".lora_" in each.name]
    axis, nodes = numpy_helper.from_array(np.array([0]), "axis_of_rows"), []
    for each in loras:
        name = f"{each.name}.weight"
        shape = [d.dim_value or "rank" for d in each.type.tensor_type.shape.dim][1:]
        kept.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        empty = np.zeros([0 if size == "rank" else size for size in shape], np.float32)
        graph.initializer.append(numpy_helper.from_array(empty, name))
        nodes.append(helper.make_node("Unsqueeze", [name, axis.name], [each.name]))
        names.append(name)
    all_logits = numpy_helper.from_array(np.array(0), "num_logits_to_keep")
    kept = [each for each in kept if each.name != all_logits.name]
    graph.initializer.extend([axis, all_logits])
    body = list(graph.node)
    for field, items in (("input", kept), ("node", nodes + body)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    onnx.save(model, target)
    return names
