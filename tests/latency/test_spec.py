import pytest
import yaml

from revati.spec import SpecError, UnknownGpuError, list_gpus, load_spec, profiles_dir

SHIPPED = {"a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx4090", "rtx_pro_6000"}


def test_every_shipped_spec_loads():
    assert set(list_gpus()) >= SHIPPED
    for gpu in list_gpus():
        spec = load_spec(gpu)
        assert spec.id == gpu and spec.sources
        pins = 2 * spec.memory_clock_hz * spec.memory_bus_bits / 8
        assert (
            0.95 * pins <= spec.hbm_bytes_per_s <= 1.01 * pins or spec.memory_bus_bits <= 512
        )  # GDDR clocks differ


def test_unknown_gpu_names_the_known_ones():
    with pytest.raises(UnknownGpuError, match=r"unknown GPU 'h100'; known: .*h100_sxm"):
        load_spec("h100")


@pytest.mark.parametrize("gpu", ["", "../x", ".", "a/b"])
def test_an_id_is_not_a_path(gpu):
    with pytest.raises(UnknownGpuError):
        load_spec(gpu)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sm_count", -1, "sm_count"),
        ("memory_bytes", "80 GB", "memory_bytes"),
        ("hbm_bytes_per_s", 3350, "hbm_bytes"),
        ("sustained_flops", {"bf61": 720e12}, "bf61"),
        ("sustained_flops", {"bf16": 0.0}, "bf16: 0.0"),
        ("stand_ins", {"gemm": "h100_sxm"}, "stand_ins.gemm"),
    ],
)
def test_a_broken_field_is_one_line(tmp_path, monkeypatch, field, value, message):
    raw = yaml.safe_load((profiles_dir() / "h100_sxm" / "spec.yaml").read_text())
    raw |= {"id": "mine", field: value}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spec.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path))
    with pytest.raises(SpecError, match=message) as caught:
        load_spec("mine")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path / "gone"))
    with pytest.raises(SpecError, match="not a folder"):
        list_gpus()


def test_a_missing_unit_runs_at_the_next_wider_type():
    a100 = load_spec("a100_sxm").peak_flops
    assert a100.fp8 is None and a100.rate("fp8") == a100.bf16 and a100.rate("fp4") == a100.bf16
