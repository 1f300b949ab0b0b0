"""MLX folders, which mlx-lm loads: a base, or one with adapters in its weights or beside them."""

from lorakit.exporting.mlx.apart import ADAPTERS as ADAPTERS
from lorakit.exporting.mlx.apart import one_adapter as one_adapter
from lorakit.exporting.mlx.apart import write_apart as write_apart
from lorakit.exporting.mlx.values import dequantised_folder as dequantised_folder
from lorakit.exporting.mlx.weights import COARSE as COARSE
from lorakit.exporting.mlx.weights import FORMS as FORMS
from lorakit.exporting.mlx.write import expected_bytes as expected_bytes
from lorakit.exporting.mlx.write import mlx_model_check as mlx_model_check
from lorakit.exporting.mlx.write import mlx_notes as mlx_notes
from lorakit.exporting.mlx.write import write_mlx as write_mlx
