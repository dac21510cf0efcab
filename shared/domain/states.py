"""The states of one device's turnaround, and which may follow which."""

from enum import StrEnum


class State(StrEnum):
    """Where a device stands on its way from "the last user has left" to "ready for the next one"."""

    RECEIVED = "received"
    """The device is known and its facts are read; nothing is decided yet. Intake moves it on at once."""

    HELD = "held"
    """It may be reset, but not yet: a time, the halt or today's limit is in the way. The sweep moves it on."""

    CLEARED = "cleared"
    """Nothing stands in the way; it waits for its turn on the dispatch queue. Dispatch moves it on."""

    SENDING = "sending"
    """The reset is about to be sent or was sent a moment ago; written before the call. Only its answer, or proof from
    Graph where the answer was lost, moves it on."""

    AWAITING_ADMIN_APPROVAL = "awaiting_admin_approval"
    """Intune's Multi Admin Approval stopped the order: nothing was done. The sweep asks what its administrators
    decided; their consent gives the device another turn."""

    TRIGGERED = "triggered"
    """Intune has taken the order; the device has not. Its check-in moves it on, forced where it does not come."""

    RESETTING = "resetting"
    """The device has taken the reset and is silent while it runs. Its return moves it on."""

    SETTLING = "settling"
    """The device is back, but the proof that it was reset is not complete. More proof moves it on."""

    READY = "ready"
    """The device is proven ready for its next user. An end."""

    REFUSED = "refused"
    """The device may not be reset; nothing was done to it. An end."""

    CANCELLED = "cancelled"
    """Somebody withdrew it before the reset was sent, or closed it while it needed a person. An end."""

    FAILED = "failed"
    """The reset failed, or nobody came to help in time. An end."""

    ATTENTION = "attention"
    """A person is needed; the reason says for what. A command moves it on, and late proof still can."""


IN_FLIGHT = frozenset(State) - {State.READY, State.REFUSED, State.CANCELLED, State.FAILED}
"""The device has a `reset` row, which keeps a second turnaround out."""

TERMINAL = frozenset(State) - IN_FLIGHT
"""Nothing leaves these."""

NEEDS_A_PERSON = frozenset({State.ATTENTION})
"""Nothing more happens by itself, but late proof is still taken."""

NOTHING_SENT = frozenset({State.RECEIVED, State.HELD, State.CLEARED, State.AWAITING_ADMIN_APPROVAL})
"""No reset was ordered, or none that took effect: cancelling is exact."""

WATCHED = frozenset({State.SENDING, State.TRIGGERED, State.RESETTING, State.SETTLING, State.ATTENTION})
"""What Graph shows of the device is weighed."""

DEVICE_MAY_BE_TOLD = frozenset({State.TRIGGERED, State.RESETTING, State.SETTLING})
"""The device may be told to sync."""

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.RECEIVED, State.REFUSED),  # the facts do not allow a reset
        (State.RECEIVED, State.HELD),  # something must happen first
        (State.RECEIVED, State.CLEARED),  # nothing stands in the way
        (State.RECEIVED, State.ATTENTION),  # intake never came back to it
        (State.HELD, State.CLEARED),  # what held it is over
        (State.HELD, State.CANCELLED),  # withdrawn in time
        (State.HELD, State.REFUSED),  # not approved, or the request is too old
        (State.HELD, State.ATTENTION),  # held for too long
        (State.CLEARED, State.SENDING),  # its turn has come; written before the call
        (State.CLEARED, State.HELD),  # the halt, or today's limit
        (State.CLEARED, State.REFUSED),  # facts read again no longer allow it
        (State.CLEARED, State.CANCELLED),  # withdrawn in time
        (State.CLEARED, State.ATTENTION),  # its turn did not come in time, or an earlier order is in doubt
        (State.SENDING, State.TRIGGERED),  # Intune took the order, or proof of it was found
        (State.SENDING, State.CLEARED),  # Intune provably did not take it
        (State.SENDING, State.HELD),  # Intune did not take it: the tenant's wipes of the day are used up
        (State.SENDING, State.AWAITING_ADMIN_APPROVAL),  # Intune did not take it: its administrators decide first
        (State.SENDING, State.FAILED),  # Intune will never take it
        (State.SENDING, State.ATTENTION),  # a permission, an approval, or a doubt that only a person can settle
        (State.AWAITING_ADMIN_APPROVAL, State.CLEARED),  # they agreed: it is sent again, with their code
        (State.AWAITING_ADMIN_APPROVAL, State.REFUSED),  # they did not, or the request is too old
        (State.AWAITING_ADMIN_APPROVAL, State.CANCELLED),  # withdrawn in time
        (State.AWAITING_ADMIN_APPROVAL, State.ATTENTION),  # no decision came, or it cannot be known
        (State.TRIGGERED, State.RESETTING),  # the device took the reset
        (State.TRIGGERED, State.FAILED),  # the device took it and it failed
        (State.TRIGGERED, State.ATTENTION),  # the device does not check in, or its record is gone
        (State.RESETTING, State.SETTLING),  # the device is back
        (State.RESETTING, State.FAILED),  # the reset failed
        (State.RESETTING, State.ATTENTION),  # silent for too long, or not silent at all
        (State.SETTLING, State.READY),  # proven
        (State.SETTLING, State.FAILED),  # the reset failed after all
        (State.SETTLING, State.ATTENTION),  # proof did not come
        (State.ATTENTION, State.CLEARED),  # a person retries what was provably not sent
        (State.ATTENTION, State.TRIGGERED),  # a person asks for further syncs, or proof that it was sent came late
        (State.ATTENTION, State.RESETTING),  # the device took the reset after all
        (State.ATTENTION, State.SETTLING),  # the device came back after all
        (State.ATTENTION, State.FAILED),  # it failed, or nobody came to help in time
        (State.ATTENTION, State.CANCELLED),  # a person closes it
    }
)
