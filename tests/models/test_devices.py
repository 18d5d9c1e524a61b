"""Names of devices, and memory that is not enough."""

import re
from typing import TYPE_CHECKING

import pytest

from predboard.errors import InputError
from predboard.models.devices import is_out_of_memory, module_bytes, parse_device, parse_devices
from tests.models.nets import net

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_devices_that_are_there() -> None:
    assert parse_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert parse_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-2", "cpu cpu"])
def test_names_that_are_no_device_are_one_line(name: str) -> None:
    with pytest.raises(InputError, match=rf"--device is '?{re.escape(name)}'?") as raised:
        parse_device(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xla"])
def test_devices_that_are_not_there_are_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=f"--device is {name}, which this machine does not have: use --device auto or cpu"
    ):
        parse_device(name)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_devices_memory_that_is_not_enough_is_told_from_other_errors(error: Exception, found: bool) -> None:
    assert is_out_of_memory(error) is found


def test_several_devices_are_separated_by_commas() -> None:
    assert parse_devices("cpu, cpu") == (torch.device("cpu"),) * 2
    assert parse_devices("cpu") == (torch.device("cpu"),)


def test_bytes_of_a_model_are_those_of_its_parameters_and_buffers() -> None:
    floats = 4 * 3 * 9 + 4 + 4 * 4 + 4 * 2 + 2
    assert module_bytes(net()) == 4 * floats + 8  # and one int64 counter
