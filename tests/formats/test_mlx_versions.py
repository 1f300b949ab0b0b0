"""The scale of MLX adapters: by the mlx-lm that trained them, by alpha alone, by the caller."""

import pytest
from adapter_files import BASE, mlx, scales
from safetensors.numpy import load_file, save_file

from lorakit.errors import FormatError, ParameterError, UnsupportedError
from lorakit.formats import read_adapter

TABLE = {"rank": 8, "alpha": 16, "scale": 10.0, "dropout": 0.0}
OLD = {"lora_layers": 4, "lora_parameters": TABLE}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (OLD, 20.0),  # 0.6 to 0.13
        ({**OLD, "lora_parameters": {**TABLE, "alpha": 4}}, 5.0),
        ({**OLD, "lora_parameters": {**TABLE, "alpha": 8}, "use_dora": False}, 10.0),  # one of both
        ({"num_layers": 4, "fine_tune_type": "lora", "lora_parameters": TABLE}, 10.0),
        ({"num_layers": 4, "lora_parameters": TABLE}, 10.0),
        ({"rank": 8, "alpha": 16, "layers": 4}, 2.0),  # of no mlx-lm
        ({"rank": 8, "alpha": 4.0, "layers": [0, 1, 2, 3]}, 0.5),
        ({"rank": 8, "alpha": 16}, 2.0),
    ],
)
def test_the_keys_of_the_config_tell_the_scale(tmp_path, config, scale):
    assert scales(read_adapter(mlx(tmp_path / "a", config), BASE.decoder)) == {scale}


def test_a_scale_that_depends_on_the_version_needs_the_version(tmp_path):
    """use_dora with lora_layers is of 0.14.0 to 0.18, and 0.14.1 changed the scale."""
    path = mlx(tmp_path / "a", {**OLD, "use_dora": False})
    with pytest.raises(UnsupportedError, match=r"20 up to 0\.14\.0.*10 since"):
        read_adapter(path)
    for version, scale in {"0.14.0": 20.0, "0.14": 20.0, "0.14.1": 10.0, "0.18.2": 10.0}.items():
        assert scales(read_adapter(path, mlx_version=version)) == {scale}
    for wrong in ("new", "", "1"):
        with pytest.raises(ParameterError, match="mlx_version"):
            read_adapter(path, mlx_version=wrong)


def test_a_version_that_cannot_have_written_a_config_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"0\.13 or earlier"):
        read_adapter(mlx(tmp_path / "a", OLD), mlx_version="0.20.0")
    new = {"num_layers": 4, "fine_tune_type": "lora", "lora_parameters": TABLE}
    with pytest.raises(ParameterError, match=r"0\.14\.1 or later"):
        read_adapter(mlx(tmp_path / "b", new), mlx_version="0.10.0")


@pytest.mark.parametrize("extra", [{}, {"fine_tune_type": "dora"}])
def test_dora_by_either_word(tmp_path, extra):
    config = {"lora_layers": 4, "use_dora": True, "lora_parameters": {"rank": 8, "scale": 10.0}}
    adapter = read_adapter(mlx(tmp_path / "a", config | extra, dora=True))
    assert len(adapter.magnitudes) == 8
    assert scales(adapter) == {10.0}
    with pytest.raises(FormatError, match="expected"):  # without the magnitudes
        read_adapter(mlx(tmp_path / "b", config | extra))
    with pytest.raises(FormatError, match="use_dora"):
        read_adapter(mlx(tmp_path / "c", config | {"use_dora": "yes"}, dora=True))


def test_two_scales_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(FormatError, match="which is it"):
        read_adapter(mlx(tmp_path / "a", {"rank": 8, "alpha": 16, "scale": 10.0}))
    with pytest.raises(FormatError, match="does not list"):
        read_adapter(mlx(tmp_path / "b", {"rank": 8, "alpha": 16, "layers": [0, 1]}))


def test_weights_without_a_config_are_read_by_alpha(tmp_path):
    path = mlx(tmp_path / "a", None)
    for place in (path, path / "adapters.safetensors"):
        with pytest.raises(UnsupportedError, match="which says their scale") as caught:
            read_adapter(place)
        assert "alpha=16" in caught.value.hint
        assert scales(read_adapter(place, alpha=16)) == {2.0}
    with pytest.raises(ParameterError, match="alpha"):
        read_adapter(path, alpha=float("nan"))
    with pytest.raises(ParameterError, match="which says the scale"):
        read_adapter(mlx(tmp_path / "b", OLD), alpha=16)


def test_a_checkpoint_is_read_with_the_config_beside_it(tmp_path):
    path = mlx(tmp_path / "a", {**OLD})
    step = (path / "adapters.safetensors").rename(path / "0000100_adapters.safetensors")
    assert scales(read_adapter(step)) == {20.0}
    with pytest.raises(UnsupportedError, match="without its adapter_config"):
        read_adapter(step.rename(path / "100.safetensors"))


def test_an_adapter_of_mlx_vlm_is_called_that(tmp_path):
    path = mlx(tmp_path / "a", {"rank": 8, "alpha": 0.1, "dropout": 0.0})
    file = path / "adapters.safetensors"
    save_file({n.replace(".lora_a", ".A").replace(".lora_b", ".B"): t
               for n, t in load_file(file).items()}, file)  # fmt: skip
    with pytest.raises(UnsupportedError, match="mlx-vlm"):
        read_adapter(path)
