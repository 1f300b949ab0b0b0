"""The page reads adapters as Python does: the same files, refused with the same codes, else the
same numbers; on all that the tests of the Python readers feed them, on hostile files, and on more.
"""

import hashlib
import json
import random
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import fed
import ml_dtypes
import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.check import for_text, require_fit
from lorakit.errors import LorakitError
from lorakit.files.safetensors import DTYPES, write_safetensors
from lorakit.formats import read_adapter
from lorakit.formats.express import require_expressible
from lorakit.formats.folding import folded
from lorakit.formats.ort import is_ort
from lorakit.formats.peft import write_peft
from lorakit.formats.readback import as_dtype
from lorakit.formats.web import cannot_express, read_web, write_web

hostile = fed.module("make", "hostile")
fuzz = fed.module("fuzz", "hostile")
tensors = fed.module("test_tensors", "files")
files = fed.module("adapter_files")

DEMO = Path(lorakit.__file__).parent / "demo/base"
BASES = {name: DATA / "truth/bases" / name for name in ("gemma3", "llama")}
KNOWN = sorted(
    path.parent
    for pattern in ("truth/peft", "truth/mlx", "recorded/peft", "recorded/mlx", "added")
    for path in DATA.glob(f"{pattern}/**/adapter_config.json")
)
SECONDS = 10  # of the CPU, for one file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")

# Where the page says `format_unsupported` at once of what Python looks into: no input says experts,
# a changed base or whole weights; and files of ONNX Runtime are for Python alone.
AT_ONCE = re.compile(
    r"test_peft_experts\.test_(what_contradicts_itself|parameters_may_be_named)"
    r"|test_peft_sources\.test_(with_its_initial|it_is_what_peft)"
    r"|test_incomplete\.test_one_of_two_saved"  # beside a base: whole weights, whatever is missing
)
# More than a page can hold in one buffer, whatever it is.
TOO_LARGE = {"peft-header_of_gigabytes", "mlx-terabyte", "web-terabyte"}
HOSTILE = {
    name: case
    for name, case in hostile.CASES.items()
    if name.split("-")[0] in ("peft", "json", "mlx", "web") and case.opens in ("adapter", "fit")
}


def numbers(adapter: Adapter) -> str:
    """SHA-256 of what a graph takes: A [in, r] and B [r, out] in float32, the scale in B."""
    digest = hashlib.sha256()
    with np.errstate(invalid="ignore"):
        adapter = folded(as_dtype(adapter, np.float32))
    for delta in adapter.deltas:
        digest.update(f"{delta.module}\n".encode())
        for array in (delta.a, delta.b):
            digest.update(np.ascontiguousarray(array.T, np.float32).tobytes())
    return digest.hexdigest()


def python(path: Path, base: Base | None = None) -> tuple[str, str]:
    """The code, or "read" and the numbers."""
    try:
        adapter = read_adapter(path, base and base.decoder)
        adapter = for_text(adapter) if base else adapter
        require_expressible(cannot_express(adapter), "a web adapter")
        if base is not None:
            require_fit(adapter, base)
        return "read", numbers(adapter)
    except LorakitError as error:
        return error.code, ""


def inputs(base: Path) -> list[dict]:
    """The linears that take adapters, as the page knows them from an exported graph."""
    return [
        {"module": name, "in": shape.in_features, "out": shape.out_features}
        for name, shape in Base.open(base).decoder.modules().items()
        if not shape.embedding and name != "lm_head"
    ]


def page(node, paths, base=None, **options) -> list[dict]:
    modules = inputs(base) if base else None
    given = [{"path": str(path), "modules": modules} for path in paths]
    return node.run("adapters.mjs", {"folders": given}, **options)["folders"]


def said(found: dict) -> tuple[str, str]:
    return found["code"], found.get("tensors", "")


# What the tests of the Python readers feed


@pytest.fixture(scope="module")
def fed_folders(tmp_path_factory):
    return fed.feed(tmp_path_factory.mktemp("fed"))


@pytest.fixture(scope="module")
def of_fed(plain_node, fed_folders):
    return dict(zip(fed_folders, page(plain_node, fed_folders.values()), strict=True))


def differing(fed_folders, of_fed, by_python):
    """Of all that is fed: what the page says otherwise, and what it refuses at once."""
    wrong, at_once = {}, []
    for key, found in of_fed.items():
        expected, path = by_python[key], fed_folders[key]
        if said(found) == expected:
            continue
        refused = found["code"] == "format_unsupported"
        if refused and expected[0] != "format_unsupported" and at_once_refused(key, path):
            at_once.append(key)
        else:
            wrong[key] = (expected, found)
    return wrong, at_once


def at_once_refused(key: str, path: Path) -> bool:
    return bool(AT_ONCE.match(key)) or is_ort(path)


@pytest.fixture(scope="module")
def beside_llama(fed_folders):
    base = Base.open(BASES["llama"])
    return {key: python(path, base) for key, path in fed_folders.items()}


@pytest.mark.filterwarnings("ignore")
def test_all_that_python_is_fed_is_read_or_refused_alike(fed_folders, of_fed):
    by_python = {key: python(path) for key, path in fed_folders.items()}
    wrong, at_once = differing(fed_folders, of_fed, by_python)
    codes = [code for code, _ in by_python.values()]
    assert wrong == {}
    assert len(at_once) < len(codes) / 8
    assert len(codes) > 250
    kinds = {"read", "format_invalid", "format_unsupported", "pickle_refused", "adapter_incomplete"}
    assert kinds <= set(codes)


@pytest.mark.filterwarnings("ignore")
def test_all_that_python_is_fed_fits_a_base_or_does_not_alike(
    plain_node, fed_folders, beside_llama
):
    found = page(plain_node, fed_folders.values(), BASES["llama"])
    of_base = dict(zip(fed_folders, found, strict=True))
    wrong, at_once = differing(fed_folders, of_base, beside_llama)
    codes = [code for code, _ in beside_llama.values()]
    assert wrong == {}
    assert len(at_once) < len(codes) / 8
    assert codes.count("adapter_incomplete") > 12


# Hostile files


@pytest.fixture(scope="module")
def hostile_files(tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    return {name: hostile.write(case, place) for name, case in HOSTILE.items()}


@pytest.fixture(scope="module")
def of_hostile(plain_node, hostile_files):
    found = {}
    for opens in ("adapter", "fit"):
        names = [name for name, case in HOSTILE.items() if case.opens == opens]
        base = DEMO if opens == "fit" else None
        answers = page(plain_node, [hostile_files[name] for name in names], base)
        found |= dict(zip(names, answers, strict=True))
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_every_hostile_file_is_refused_with_the_same_code(name, of_hostile):
    found, case = of_hostile[name], HOSTILE[name]
    expected = ["source_too_large"] if name in TOO_LARGE else case.code.split("|")
    assert found["code"] in expected, found
    assert found["ms"] < SECONDS * 1000
    assert all(line.isprintable() for line in (found["message"], found["hint"], *found["items"]))


def test_mutated_files_are_read_or_refused_alike(plain_node, tmp_path):
    draw = random.Random(13)
    seeds = [path for path in fuzz.seeds(tmp_path / "seeds")[:5] if "gguf" not in path.name]
    seeds = [path for path in seeds if "onnx" not in path.name]
    paths = []
    for number in range(900):
        seed = draw.choice(seeds)
        files = sorted(seed.iterdir()) if seed.is_dir() else [seed]
        chosen = draw.choice(files)
        for file in files:
            target = tmp_path / f"{number}" / file.name
            target.parent.mkdir(exist_ok=True)
            content = file.read_bytes()
            other = draw.choice(files).read_bytes()
            target.write_bytes(fuzz.mutate(content, other, draw) if file == chosen else content)
        paths.append(tmp_path / f"{number}" / ("" if seed.is_dir() else seed.name))
    expected = [python(path) for path in paths]
    found = page(plain_node, paths)
    wrong = [
        (path.read_bytes()[:300] if path.is_file() else path, e, f)
        for path, e, f in zip(paths, expected, found, strict=True)
        if said(f) != e
    ]
    assert wrong == []
    assert {"read", "format_invalid", "format_unsupported"} <= {code for code, _ in expected}


# Adapters of other tools


def differences(node, paths, **options) -> list[tuple]:
    found, expected = page(node, paths, **options), [python(path) for path in paths]
    triples = zip(paths, found, expected, strict=True)
    return [(path, f, e) for path, f, e in triples if said(f) != e]


def test_what_peft_and_mlx_wrote_has_the_same_numbers(plain_node):
    found = page(plain_node, KNOWN)
    for path, f in zip(KNOWN, found, strict=True):
        assert said(f) == python(path), (path, f)
    assert sum(f["code"] == "read" for f in found) >= 12
    assert {f["baseName"] for f in found if f["code"] == "read"} >= {
        "fixtures/llama",
        "bases/llama",
    }


@pytest.mark.parametrize("name", BASES)
def test_what_does_not_fit_is_refused_as_python_refuses_it(plain_node, name):
    base = Base.open(BASES[name])
    found = page(plain_node, KNOWN, BASES[name])
    for path, f in zip(KNOWN, found, strict=True):
        assert said(f) == python(path, base), (path, f)
    assert {"read", "adapter_mismatch"} <= {f["code"] for f in found}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_kind_of_float_and_odd_scale(plain_node, tmp_path, dtype):
    rng = np.random.default_rng(3)
    deltas = tuple(
        Delta(
            module=f"model.layers.{layer}.self_attn.q_proj",
            a=rng.standard_normal((rank, 9)).astype(dtype),
            b=(rng.standard_normal((7, rank)) * 10.0 ** rng.integers(-6, 3, (7, rank))).astype(
                dtype
            ),
            scale=scale,
        )
        for layer, (rank, scale) in enumerate([(3, 16 / 3**0.5), (1, -0.1), (5, 1e-30), (2, 1.0)])
    )
    write_peft(Adapter(deltas=deltas), tmp_path / "a")
    (found,) = page(plain_node, [tmp_path / "a"])
    assert said(found) == python(tmp_path / "a")
    assert found["rank"] == 5


def test_a_web_file_and_what_it_was_made_of_are_one(plain_node, tmp_path):
    source = DATA / "truth/peft/llama/rslora"
    write_web(read_adapter(source), tmp_path / "home.safetensors")
    folder, file = page(plain_node, [source, tmp_path / "home.safetensors"])
    assert folder["digest"] == file["digest"] != ""
    assert folder["tensors"] == file["tensors"]
    assert (folder["name"], file["name"]) == ("rslora", "home")
    write_web(read_adapter(source), tmp_path / "half.safetensors", dtype=np.float16)
    (half,) = page(plain_node, [tmp_path / "half.safetensors"])
    assert said(half) == ("read", numbers(read_web(tmp_path / "half.safetensors")))


def with_value(target: Path, value: float) -> Path:
    """An adapter of the base llama that holds such a value."""
    adapter = read_adapter(DATA / "truth/peft/llama/plain")
    first, *rest = adapter.deltas
    a = first.a.copy()
    a[0, 0] = value
    write_peft(Adapter(deltas=(replace(first, a=a), *rest)), target)
    return target


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(plain_node, tmp_path, value):
    path = with_value(tmp_path / "a", value)
    (found,) = page(plain_node, [path], BASES["llama"])
    assert found["code"] == python(path, Base.open(BASES["llama"]))[0] == "adapter_mismatch"
    assert [item.split(":")[0] for item in found["items"]] == ["model.layers.0.mlp.down_proj.A"]


# What a config promises, and what is not for text


@pytest.mark.parametrize("more", ["embed_tokens", "lm_head"])
def test_a_vocabulary_that_is_promised_is_missed(plain_node, tmp_path, more):
    path = files.peft(tmp_path / "a", target_modules=["q_proj", "v_proj", more])
    (found,) = page(plain_node, [path], BASES["llama"])
    assert found["code"] == python(path, Base.open(BASES["llama"]))[0] == "adapter_incomplete"
    assert more in found["items"][0]
    other = files.peft(tmp_path / "b", target_modules=["q_proj", "v_proj", "embed_positions"])
    assert said(page(plain_node, [other], BASES["llama"])[0])[0] == "read"


def test_what_sees_is_left_out_with_a_warning(plain_node, tmp_path):
    text = [f"model.language_model.{m.removeprefix('model.')}" for m in files.MODULES]
    tower = [f"model.vision_tower.encoder.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    paths = [
        files.peft(tmp_path / "both", modules=[*text, *tower]),
        files.peft(tmp_path / "text", modules=text),
        files.peft(tmp_path / "tower", modules=tower),
    ]
    both, alone, none = page(plain_node, paths, BASES["llama"])
    assert said(both) == said(alone)
    (warning,) = both["warnings"]
    assert warning["code"] == "adapter_read"
    (note,) = for_text(read_adapter(paths[0], Base.open(BASES["llama"]).decoder)).reading.notes
    assert warning["message"] == note
    assert alone["warnings"] == []
    assert none["code"] == "adapter_mismatch"


def test_a_training_step_of_mlx_is_read_beside_its_config(plain_node, tmp_path):
    config = {"fine_tune_type": "lora", "num_layers": 4,
              "lora_parameters": {"rank": 8, "scale": 2.0}}  # fmt: skip
    folder = files.mlx(tmp_path / "a", config)
    step = (folder / "adapters.safetensors").rename(folder / "0000100_adapters.safetensors")
    other = step.with_name("100_adapters.safetensors")
    other.write_bytes(step.read_bytes())
    found = page(plain_node, [step, other, folder])
    expected = [python(path) for path in (step, other, folder)]
    assert [said(each) for each in found] == expected
    assert [code for code, _ in expected] == ["read", *["format_unsupported"] * 2]
    assert step.name in found[2]["items"]
    with pytest.raises(LorakitError, match="training steps") as caught:
        read_adapter(folder)
    assert step.name in caught.value.hint


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_a_folder_is_the_folder(plain_node, tmp_path, name):
    path = files.peft(tmp_path / "a") / name
    assert page(plain_node, [path])[0]["tensors"] == python(path)[1] != ""


# Headers and layouts


def test_headers_and_layouts_that_the_library_reads_or_refuses(plain_node, tmp_path):
    (mark,) = (
        m for m in tensors.test_a_header_that_the_library_refuses_is_refused.pytestmark
        if m.name == "parametrize"
    )  # fmt: skip
    files = [len(h).to_bytes(8, "little") + h + b"\0" for h in mark.args[1]]
    whole = tensors.written(tensors.SAMPLE)
    files += [whole[:cut] for cut in (0, 4, 8, 20, -1)] + [whole]
    draw = random.Random(5)
    for _ in range(150):  # of any dtype, shape and order, as PEFT names them
        with (tmp_path / "one").open("wb") as file:
            write_safetensors(file, {peft_name(n): drawn(draw) for n in range(2)}, {})
        files.append((tmp_path / "one").read_bytes())
    paths = []
    for number, content in enumerate(files):
        fed.module("cases", "hostile").folder(tmp_path / f"{number}", weights=content)
        paths.append(tmp_path / f"{number}")
    assert differences(plain_node, paths) == []


def peft_name(number: int) -> str:
    return f"base_model.model.model.layers.0.self_attn.q_proj.lora_{'AB'[number]}.weight"


def drawn(draw: random.Random) -> np.ndarray:
    shape = draw.choice([(4, 8), (6, 4), (4,), (), (0, 4), (4, 8, 1)])
    dtype = DTYPES[draw.choice(["F32", "F32", "F16", "BF16", "F64", *DTYPES])]
    return np.random.default_rng(draw.randrange(99)).normal(0, 9, shape).astype(dtype)


def lies(place: Path) -> list[Path]:
    """Folders with nothing wrong but one thing each in the header or the config."""
    cases = fed.module("cases", "hostile")
    layouts = {  # of A [4, 8] and B [6, 4]: where each begins and ends, and the file's size
        "overlap": ([0, 128], [32, 128], 128),
        "hole": ([0, 128], [132, 228], 228),
        "begins late": ([4, 132], [132, 228], 228),
        "ends early": ([0, 128], [128, 224], 228),
        "too short": ([0, 124], [124, 220], 220),
        "too long": ([0, 132], [132, 228], 228),
        "backwards": ([128, 0], [128, 224], 224),
    }
    for name, (a, b, size) in layouts.items():
        header = {
            peft_name(0): {"dtype": "F32", "shape": [4, 8], "data_offsets": a},
            peft_name(1): {"dtype": "F32", "shape": [6, 4], "data_offsets": b},
        }
        cases.folder(place / name, weights=cases.packed(header) + bytes(size))
    text = json.dumps(cases.CONFIG)
    cases.folder(place / "twice", config=text.replace("{", '{"r": 4, ', 1))
    cases.folder(place / "rank", r=2)
    return [place / name for name in (*layouts, "twice", "rank")]


def test_one_lie_alone_is_refused(plain_node, tmp_path):
    paths = lies(tmp_path)
    assert {python(path)[0] for path in paths} == {"format_invalid"}
    assert differences(plain_node, paths) == []


def test_unaligned_tensors_are_read(plain_node, tmp_path):
    arrays = {peft_name(0): np.ones((4, 8), "f4"), peft_name(1): np.full((6, 4), 3, "f4")}
    header, data = {}, b"x"
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32", "shape": array.shape,
            "data_offsets": [len(data), len(data) + array.nbytes],
        }  # fmt: skip
        data += array.tobytes()
    header["base_model.model.model.norm.weight"] = {
        "dtype": "U8", "shape": [1], "data_offsets": [0, 1],
    }  # fmt: skip
    cases = fed.module("cases", "hostile")
    cases.folder(tmp_path / "odd", weights=cases.packed(header) + data)
    header.popitem()
    for entry in header.values():
        entry["data_offsets"] = [at - 1 for at in entry["data_offsets"]]
    padded = json.dumps(header) + " "
    text = struct.pack("<Q", len(padded)) + padded.encode()
    assert len(text) % 4 or len(cases.packed(header)) % 4  # one of the two is not aligned
    for name, head in (("a", text), ("b", cases.packed(header))):
        cases.folder(tmp_path / name, weights=head + data[1:])
    paths = [tmp_path / name for name in ("odd", "a", "b")]
    assert differences(plain_node, paths) == []
    assert python(paths[1])[0] == "read"


# Broken variants: each must be seen

OLDER = re.compile(r"test_(peft|mlx|peft_experts|peft_sources|mlx_sites)\.")
BROKEN = {
    "alpha is not folded": ("fold.js", "factor: Math.fround(scale)", "factor: 1", "known"),
    "rows beyond the fours are lost": ("fold.js", "let row = whole", "let row = rows", "known"),
    "rsLoRA is not known": ("peft_config.js", "Math.sqrt(rank)", "rank", "known"),
    "patterns are ignored": (
        "peft_config.js",
        "key === null ? this.config.alpha",
        "true ? this.config.alpha",
        "known",
    ),
    "PEFT's order for MLX": ("mlx.js", "turned: false", "turned: true", "known"),
    "bfloat16 as float16": (
        "safetensors.js",
        "fromBfloat16(values)",
        "fromFloat16(values)",
        "known",
    ),
    "DoRA is dropped": (
        "peft.js",
        "beyond.push(`${module}: a DoRA magnitude`)",
        "beyond.length",
        "known",
    ),
    "saved modules are dropped": (
        "peft.js",
        "beyond.push(...replacements(parts), ...rows(config, parts))",
        "beyond.length",
        "known",
    ),
    "aLoRA acts on all": ("peft.js", "if (config.invocationTokens.length)", "if (false)", "known"),
    "pickles are overlooked": ("peft.js", "if (!files.has(PICKLE))", "if (true)", "known"),
    "overlaps and holes are read": ("safetensors.js", "if (start !== at)", "if (false)", "lies"),
    "sizes are not compared": (
        "safetensors.js",
        "if (wanted !== end - start)",
        "if (false)",
        "lies",
    ),
    "ranks are not compared": (
        "peft.js",
        "a.shape[0] !== rank || b.shape[1] !== rank",
        "false",
        "lies",
    ),
    "keys are named twice": ("json.js", "if (found.has(key))", "if (false)", "lies"),
    "names of other scripts": (
        "names.js",
        "name.length <= MAX_NAME && PRINTABLE.test(name)",
        "true",
        "hostile",
    ),
    "untargeted modules are read": (
        "peft.js",
        "if (!follows && !resolver.targeted(module))",
        "if (false)",
        "hostile",
    ),
    "the digest is not checked": (
        "web_file.js",
        "if (metadata.get('digest') !== digest)",
        "if (false)",
        "hostile",
    ),
    "wrappers stay in names": ("names.js", ".filter((step) => !WRAPPERS.has(step))", "", "fed"),
    "beginnings stay as they are": ("adapter.js", "known ? renamings", "false ? renamings", "fed"),
    "two names become one": ("names.js", "names.size < held.length", "false", "fed"),
    "adapters' names stay in keys": (
        "peft_names.js",
        "if (who && who === own)",
        "if (false)",
        "fed",
    ),
    "one of several adapters is taken": ("peft_names.js", "adapters.size > 1", "false", "fed"),
    "incomplete saves are read": ("adapter.js", "lacking.length && belongs", "false", "fed"),
    "another base's are incomplete": ("adapter.js", "!misfits(delta, ", "![].at(delta, ", "fed"),
    "alpha of old mlx-lm is dropped": (
        "mlx_config.js",
        "(scale * alpha) / rank : 0",
        "scale : 0",
        "fed",
    ),
    "rank, alpha and layers": ("mlx_config.js", "rank ? alpha / rank : 0", "alpha", "fed"),
    "unread patterns are refused": (
        "peft_config.js",
        "if (!(error instanceof UnknownSyntaxError)) throw error",
        "throw error",
        "fed",
    ),
    "NaN passes": (
        "adapter.js",
        "!allFinite(values) && !allFinite(valuesOf(tensor)))",
        "false)",
        "fit",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_variant_is_seen(
    plain_node, broken_web, hostile_files, fed_folders, beside_llama, tmp_path, name
):
    file, text, replacement, where = BROKEN[name]
    web = broken_web({file: (text, replacement)})
    if where == "fed":
        chosen = {key: path for key, path in fed_folders.items() if not OLDER.match(key)}
        found = page(plain_node, chosen.values(), BASES["llama"], web=web)
        of_base = dict(zip(chosen, found, strict=True))
        assert differing(fed_folders, of_base, beside_llama)[0]
        return
    if where == "known":
        assert differences(plain_node, KNOWN, web=web)
        return
    if where == "lies":
        assert differences(plain_node, lies(tmp_path / "lies"), web=web)
        return
    if where == "fit":
        path = with_value(tmp_path / "a", np.nan)
        (found,) = page(plain_node, [path], BASES["llama"], web=web)
        assert found["code"] == "read"
        return
    chosen = [name for name, case in HOSTILE.items() if case.opens == "adapter"]
    found = page(plain_node, [hostile_files[n] for n in chosen], web=web)
    pairs = zip(chosen, found, strict=True)
    assert any(f["code"] not in (*HOSTILE[n].code.split("|"), "source_too_large") for n, f in pairs)
