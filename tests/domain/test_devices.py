"""How devices are named and what Graph tells of them."""

import dataclasses

import pytest

from shared.domain.devices import ActionState, DeviceReference, Finding, ReferenceKind
from tests.domain.builders import managed, sighting


def test_a_reference_reads_as_kind_and_value() -> None:
    assert str(DeviceReference(ReferenceKind.SERIAL_NUMBER, "0012")) == "serialNumber:0012"


def test_references_of_different_kinds_are_never_the_same() -> None:
    assert len({DeviceReference(kind, "X") for kind in ReferenceKind}) == len(ReferenceKind)


def test_a_name_that_leads_nowhere_leads_to_nothing() -> None:
    assert Finding() == Finding(devices=(), not_enrolled=())


def test_what_graph_told_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        managed().name = "other"  # type: ignore[misc]  # that it cannot be set is what is tested


def test_actions_that_graph_did_not_show_are_not_the_same_as_none() -> None:
    assert sighting(0, 0, shows_actions=False).actions is None
    assert sighting(0, 0).actions == ()


def test_action_states_are_spelt_as_graph_spells_them() -> None:
    assert ActionState("notSupported") is ActionState.NOT_SUPPORTED
