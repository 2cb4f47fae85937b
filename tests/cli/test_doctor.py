"""``handgrad doctor``: right about this machine, and a clear word about broken ones."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from handgrad.cli import doctor, gpu, run
from handgrad.derivations import dense as literal
from handgrad.engine.backend import TILE

NOTHING = {"library": None, "status": None, "supports": None, "devices": [], "numba_cuda": None, "toolkit": {}}
GPU = {"library": "libcuda.so.1", "status": 0, "supports": "13.0", "devices": ["NVIDIA H200"]}


def test_this_machine_works(capsys):
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "everything that is needed works"
    assert f"tile of {TILE} x 16" in text
    assert "agree with the literal code" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


def test_json_is_one_object(capsys):
    assert run(["doctor", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["ok"] is True
    findings = {finding["name"]: finding for finding in value["findings"]}
    assert list(findings) == list(doctor.CHECKS)
    assert {finding["state"] for finding in value["findings"]} <= {"ok", "note"}
    assert findings["packages"]["facts"]["numba"]
    assert findings["processor"]["facts"]["cores"] >= 1
    assert findings["self-test"]["facts"]["errors"]["dL/dW"] < doctor.LIMIT


def test_a_package_that_cannot_be_imported_is_a_problem(capsys, monkeypatch):
    real = doctor.importlib.import_module

    def refuse(name, *rest):
        if name == "matplotlib":
            raise ImportError("built for another NumPy")
        return real(name, *rest)

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    finding = doctor.examine("packages", doctor.check_packages)
    assert finding.state == "problem"
    assert "matplotlib cannot be imported (built for another NumPy)" in finding.text
    assert "pip install" in finding.remedy


def test_a_package_that_is_too_old_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "smallest_versions", lambda: {"numba": "99.0"})
    finding = doctor.examine("packages", doctor.check_packages)
    assert finding.state == "problem"
    assert "needed is 99.0" in finding.text


def test_versions_are_compared_as_numbers():
    assert doctor._numbers("0.9.1") < doctor._numbers("0.61") < doctor._numbers("0.61.2rc1")


def test_a_gradient_that_is_wrong_is_a_problem_and_exit_code_1(capsys, monkeypatch):
    right = literal.backward

    def wrong(*arguments):
        dL_dx, dL_dW, dL_db = right(*arguments)
        return dL_dx, 1.001 * dL_dW, dL_db

    monkeypatch.setattr(literal, "backward", wrong)
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "dL/dW of a dense layer differs" in " ".join(text.split())
    assert "1 of 9 checks found a problem: self-test" in text


def test_a_compiler_that_is_switched_off_is_a_problem(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    finding = doctor.check_environment("environment")
    assert finding.state == "problem"
    assert "unset NUMBA_DISABLE_JIT" in finding.remedy


def test_a_cache_that_cannot_be_written_is_a_note(monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", full)
    finding = doctor.check_cache("kernel cache")
    assert finding.state == "note"
    assert "No space left on device" in finding.text
    assert "HANDGRAD_CACHE" in finding.remedy
    assert finding.facts["writable"] is False


def test_looking_at_the_cache_leaves_no_trace(monkeypatch, tmp_path):
    assert doctor._refusal(tmp_path / "not" / "yet") is None
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_a_note_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDGRAD_CACHE", str(tmp_path))
    monkeypatch.setenv("HANDGRAD_DATA", str(tmp_path / "nowhere"))
    finding = doctor.examine("data sets", doctor.check_data)
    assert finding.state == "note"
    assert "handgrad data fetch mnist" in finding.remedy
    assert finding.facts["mnist"] is None


@pytest.mark.parametrize(("name", "state"), [("CUDA", "note"), ("self-test", "problem")])
def test_whatever_a_check_raises_becomes_its_finding(name, state):
    def broken(name):
        raise RuntimeError("two\nlines")

    finding = doctor.examine(name, broken)
    assert (finding.state, finding.text) == (state, "RuntimeError: two lines")


@pytest.mark.parametrize(
    ("facts", "text", "remedy"),
    [
        ({}, "libcuda was not found", ""),
        ({"numba_cuda": "0.30.4"}, "numba-cuda 0.30.4", "install NVIDIA's driver"),
        (GPU, "NVIDIA H200; the driver supports CUDA up to 13.0", ""),
        ({**GPU, "numba_cuda": "0.30.4"}, "no toolkit packages", "brings the toolkit"),
        ({**GPU, "numba_cuda": "0.30.4", "toolkit": {"13": ["cuda-toolkit 13.0.3"]}}, "for CUDA 13", ""),
        (
            {**GPU, "supports": "12.4", "numba_cuda": "0.30.4", "toolkit": {"13": ["cuda-toolkit 13.0.3"]}},
            "up to 12.4",
            "too old for CUDA 13",
        ),
        (
            {**GPU, "numba_cuda": "0.30.4", "toolkit": {"12": ["nvidia-nvjitlink-cu12 12.9"], "13": ["a 1", "b 2"]}},
            "for CUDA 12 and 13",
            "nvidia-nvjitlink-cu12 12.9 do not fit the others",
        ),
        ({**GPU, "status": 999, "devices": [], "numba_cuda": "0.30.4"}, "cuInit fails with 999", "nvidia-smi"),
    ],
)
def test_cuda_is_explained(facts, text, remedy):
    explained, helps = gpu.explain({**NOTHING, "refusal": "", **facts})
    assert text in explained
    assert (remedy in helps) if remedy else helps == ""
    assert ("The CPU is all that handgrad needs." in explained) == (not facts.get("devices"))


def test_toolkit_packages_are_sorted_by_their_cuda(monkeypatch):
    installed = {
        "nvidia-cuda-runtime-cu12": "12.9.79",
        "nvidia-nvjitlink": "13.0.88",
        "cuda-bindings": "13.0.1",
        "cuda-pathfinder": "1.4",
        "numpy": "2.4",
    }
    found = [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in installed.items()]
    monkeypatch.setattr(gpu.metadata, "distributions", lambda: found)
    assert gpu.toolkit() == {
        "12": ["nvidia-cuda-runtime-cu12 12.9.79"],
        "13": ["cuda-bindings 13.0.1", "nvidia-nvjitlink 13.0.88"],
    }


class Driver:
    """A driver library with two GPUs."""

    def __init__(self, status):
        self.status = status

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, number):
        number._obj.value = 12080
        return 0

    def cuDeviceGetCount(self, number):
        number._obj.value = 2
        return 0

    def cuDeviceGetName(self, text, length, device):
        text.value = f"GPU {device}".encode()
        return 0


@pytest.mark.parametrize(("status", "devices"), [(0, ["GPU 0", "GPU 1"]), (100, [])])
def test_the_driver_is_asked(monkeypatch, status, devices):
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda library: Driver(status))
    facts = gpu.driver()
    assert (facts["status"], facts["supports"], facts["devices"]) == (status, "12.8", devices)


def test_no_driver_is_no_error(monkeypatch):
    def missing(library):
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    assert gpu.driver()["library"] is None
