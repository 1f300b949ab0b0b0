"""The types of the values and the tensors in GGUF files: their numbers and sizes.

Read in ggml-org/ggml (docs/gguf.md, ggml.h, ggml-common.h). What a block means is not known here.
"""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np

# Value types by number: a name, and how a fixed-size one is stored.
VALUE_TYPES = {
    0: ("u8", "<u1"),
    1: ("i8", "<i1"),
    2: ("u16", "<u2"),
    3: ("i16", "<i2"),
    4: ("u32", "<u4"),
    5: ("i32", "<i4"),
    6: ("f32", "<f4"),
    7: ("bool", "u1"),
    8: ("str", ""),
    10: ("u64", "<u8"),
    11: ("i64", "<i8"),
    12: ("f64", "<f8"),
}
ARRAY = 9  # the number of an array, whose items are of one of them
LENGTH = struct.Struct("<Q")  # of a string, before its bytes
VALUE_NUMBERS = {name: number for number, (name, _) in VALUE_TYPES.items()}
STORED = {name: np.dtype(stored) for name, stored in VALUE_TYPES.values() if stored}

# Tensor types by number: a name, values in a block, bytes of a block.
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
PLAIN = {  # types of single values
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
BLOCKS = {name: (values, size) for name, values, size in TENSOR_TYPES.values()}


def stored_size(kind: str, count: int) -> int:
    """Bytes of so many values in whole blocks of a tensor type."""
    values, size = BLOCKS[kind]
    return count // values * size


def padded(offset: int, alignment: int) -> int:
    """Where the next multiple of an alignment begins."""
    return -(-offset // alignment) * alignment
