"""mlx-lm adapter folders: adapters.safetensors and adapter_config.json.

mlx-lm 0.32 computes ``y = W x + scale * (x A) B`` with A [in, r] and B [r, out] (an embedding: A
[vocab, r], B [r, hidden]; experts: A [E, r, in], B [E, out, r]); `scale` is used as it is, there is
no alpha, and one rank and one scale hold for the whole file.
"""

from lorakit.formats.mlx.express import cannot_express
from lorakit.formats.mlx.read import CHECKPOINT, WEIGHTS, is_mlx, read_mlx
from lorakit.formats.mlx.write import write_mlx

__all__ = ["CHECKPOINT", "WEIGHTS", "cannot_express", "is_mlx", "read_mlx", "write_mlx"]
