"""Devices by their names in the settings."""

from __future__ import annotations

import pytest

from mlops.devices import KINDS, Absent, opener
from mlops.devices.base import Device
from mlops.devices.host import HostDevice
from mlops.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "There is no device 'gpu'"),
        ("", "There is no device ''"),
        ("replay", "The device replay needs a file"),
        ("replay:", "The device replay needs a file"),
        ("host:1", "The device host takes no argument"),
        ("nvidia:", "The device nvidia takes no argument"),
    ],
)
def test_a_name_that_means_no_device_is_refused_at_once(name: str, said: str) -> None:
    """Before anything is opened, with the names that there are."""
    with pytest.raises(SettingsError, match=said) as caught:
        opener(name)
    assert caught.value.remedy


def test_a_device_is_opened_when_it_is_asked_for() -> None:
    """opener() only judges the name."""
    assert isinstance(opener("host")(), HostDevice)


def test_every_kind_is_there() -> None:
    """The table names classes that exist; opening never raises, whatever the machine has."""
    for kind in KINDS:
        assert isinstance(opener(kind if kind != "replay" else "replay:nowhere")(), Device)


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ("mlops.devices.base:Absent", "nvidia: TypeError: "),
        ("mlops.devices.nowhere:Device", "nvidia: ModuleNotFoundError: "),
        ("builtins:object", "nvidia: object is no Device"),
    ],
)
def test_what_cannot_be_opened_is_absent_with_the_reason(monkeypatch: pytest.MonkeyPatch, home: str, said: str) -> None:
    """A broken driver raises whatever it likes; the training has begun already."""
    monkeypatch.setattr("mlops.devices.base.KINDS", {"nvidia": home})
    device = opener("nvidia")()
    assert isinstance(device, Absent)
    assert device.reason.startswith(said)
