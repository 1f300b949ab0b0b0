"""What a checker must refuse: each line names a part of the error that mypy reports there."""

import lorakit
from lorakit import AdapterConfig, KvPolicy, LlamaOptions, Model, Stream, demo, verify
from lorakit import nothing as nothing  # error: has no attribute "nothing"
from lorakit.algebra import combine
from lorakit.formats.convert import convert

lorakit.nonsense()  # error: Module has no attribute "nonsense"
lorakit.errors.NonsenseError()  # error: Module has no attribute "NonsenseError"
verify.nonsense()  # error: Module has no attribute "nonsense"
model = lorakit.open(demo.base_path(), engine="lama")  # error: "Literal['lama']"; expected
lorakit.open(demo.base_path(), quantise="int8")  # error: Unexpected keyword argument "quantise"
lorakit.open(demo.base_path(), quantize="int3")  # error: "Literal['int3']"; expected
lorakit.open(demo.base_path(), device="gpu")  # error: "Literal['gpu']"; expected
lorakit.open(settings=5).close()  # error: "int"; expected "str | PathLike[str] | None"
lorakit.open(demo.base_path(), fallback=True)  # error: "bool"; expected "str | None"
lorakit.open("https://host/v1", api_key=5).close()  # error: "int"; expected "str | None"
lorakit.open(demo.base_path(), adapter=0.5).close()  # error: "float"; expected
AdapterConfig("home", mode="static")  # error: "Literal['static']"; expected
AdapterConfig("home", source="hub")  # error: "Literal['hub']"; expected
AdapterConfig("home", 0.5)  # error: Too many positional arguments
LlamaOptions(kv_type="q4_0")  # error: "Literal['q4_0']"; expected
model.load_adapter("home").apply("1")  # error: "Literal['1']"; expected "float
model.apply({"home": 1.0}, kv="drop")  # error: "Literal['drop']"; expected
model.embed("hello", pooling="max")  # error: "Literal['max']"; expected
model.complete("hello", max_token=3)  # error: Unexpected keyword argument "max_token"
model.complete("hello", max_tokens=2.5)  # error: "float"; expected "int"
model.complete("hello", logit_bias=[3])  # error: "list[int]"; expected "Mapping[int, float]"
model.complete("hello").tokens[0].logprob + 1.0  # error: Unsupported operand types for + ("None"
model.find("home").apply()  # error: has no attribute "apply"
model.batch(["hello"])  # error: expected "Iterable[Request
convert(demo.base_path(), demo.base_path(), to="onnx")  # error: "Literal['onnx']"; expected
combine([], "sum")  # error: "Literal['sum']"; expected
policy: KvPolicy = "forget"  # error: Incompatible types in assignment


def answered(stream: Stream, other: Model) -> int:
    return stream.result().text  # error: Incompatible return value type
