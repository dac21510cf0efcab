"""The request contract: what is taken, what is refused with field and fault, and what one request's id is."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.devices import DeviceReference, ReferenceKind
from shared.domain.reasons import Code
from shared.domain.request import MAX_DEVICES, MAX_MESSAGE_BYTES, RefusedMessage, ResetRequest, messages, parse
from shared.domain.shown import is_seen

Body = dict[str, object]
PLAIN: Body = {"requester": "teacher@school.example", "reason": "INC-4711", "devices": [{"serialNumber": "SN-0001"}]}


def taken(body: Body) -> ResetRequest:
    request = parse(json.dumps(body))
    assert isinstance(request, ResetRequest), request
    return request


def refused(body: Body | str, limit: int = MAX_MESSAGE_BYTES) -> RefusedMessage:
    message = parse(body if isinstance(body, str) else json.dumps(body), limit)
    assert isinstance(message, RefusedMessage), message
    return message


# --- what is taken ------------------------------------------------------------------------------------------------


def test_a_plain_request_is_taken() -> None:
    request = taken(PLAIN)
    assert request.references() == (DeviceReference(ReferenceKind.SERIAL_NUMBER, "SN-0001"),)
    assert (request.outcome_queue, request.part, request.not_before) == ("reset-results", None, None)


def test_everything_that_may_be_said_is_taken() -> None:
    request = taken(
        PLAIN
        | {
            "requestId": "INC-4711:a@b_c.d",
            "notBefore": "2026-03-02T18:00:00+01:00",
            "readyBy": "2026-03-03T07:00:00Z",
            "outcomeQueue": "reset-results-desk",
            "part": {"number": 1, "of": 2},
        }
    )
    assert request.id == "INC-4711:a@b_c.d"
    assert request.not_before == datetime(2026, 3, 2, 17, tzinfo=UTC)


@pytest.mark.parametrize("kind", list(ReferenceKind))
def test_a_device_may_be_named_in_each_way(kind: ReferenceKind) -> None:
    (reference,) = taken(PLAIN | {"devices": [{kind.value: " AbC "}]}).references()
    is_id = kind in (ReferenceKind.INTUNE_ID, ReferenceKind.ENTRA_DEVICE_ID)
    assert reference == DeviceReference(kind, "abc" if is_id else "AbC")


def test_a_device_named_twice_is_one_device() -> None:
    devices = [{"intuneId": "ABC"}, {"name": "x"}, {"intuneId": "abc"}]
    assert [str(reference) for reference in taken(PLAIN | {"devices": devices}).references()] == [
        "intuneId:abc",
        "name:x",
    ]


def test_times_are_kept_in_utc_whatever_zone_they_were_written_in() -> None:
    request = taken(PLAIN | {"notBefore": "2026-03-02T18:00:00+02:00", "readyBy": "2026-03-03T07:00:00-05:00"})
    assert request.not_before is not None
    assert request.ready_by is not None
    assert (request.not_before.utcoffset(), request.ready_by.utcoffset()) == (timedelta(0), timedelta(0))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"requester": ""}, "requester: "),
        ({"requester": "x" * 201}, "requester: "),
        ({"requester": None}, "requester: "),
        ({"requester": "a\nb"}, "requester: \\n is a character that cannot be seen, or a line break"),
        ({"requester": "\u202emoc.evil"}, "requester: \\u202e is a character that cannot be seen"),
        ({"requester": "a\x1b[2J"}, "requester: \\x1b is a character that cannot be seen"),
        ({"reason": "a\x00b"}, "reason: \\x00 is a control character"),
        ({"reason": "a\x9bb"}, "reason: \\x9b is a control character"),
        ({"devices": [{"name": "PC\u200b1"}]}, "devices.0.name: \\u200b is a character that cannot be seen"),
        (
            {"devices": [{"serialNumber": "SN\xa01"}]},
            "devices.0.serialNumber: \\xa0 is a character",
        ),
        ({"\x1b[31m": 1}, "\\x1b[31m: Extra inputs"),
        ({"reason": "   "}, "reason: "),
        ({"reason": "x" * 501}, "reason: "),
        ({"devices": []}, "devices: "),
        ({"devices": "SN-0001"}, "devices: "),
        ({"devices": [{}]}, "devices.0: name the device in exactly one of these ways: intuneId"),
        ({"devices": [{"name": None}]}, "devices.0: name the device in exactly one"),
        ({"devices": [{"name": "A"}, {"name": "B", "serialNumber": "C"}]}, "devices.1: name the device in exactly one"),
        ({"devices": [{"hostname": "A"}]}, "devices.0.hostname: Extra inputs"),
        ({"devices": [{"name": "x" * 201}]}, "devices.0.name: "),
        ({"devices": [{"serialNumber": 12}]}, "devices.0.serialNumber: "),
        ({"devices": [{"name": str(n)} for n in range(MAX_DEVICES + 1)]}, "devices: "),
        ({"requestId": "a/b"}, "requestId: "),
        ({"requestId": ""}, "requestId: "),
        ({"requestId": "x" * 101}, "requestId: "),
        ({"notBefore": "2026-03-02T18:00:00"}, "notBefore: "),
        ({"notBefore": "tonight"}, "notBefore: "),
        ({"notBefore": "9999-12-31T00:00:00Z"}, "notBefore: "),
        ({"readyBy": "0001-01-01T00:00:00+14:00"}, "readyBy: "),
        (
            {"notBefore": "2026-03-02T18:00:00Z", "readyBy": "2026-03-02T18:00:00Z"},
            "message: readyBy is not after notBefore",
        ),
        ({"outcomeQueue": "reset-requests"}, "outcomeQueue: "),
        ({"outcomeQueue": "reset-results-"}, "outcomeQueue: "),
        ({"outcomeQueue": "reset-results-" + "x" * 60}, "outcomeQueue: "),
        ({"part": {"number": 3, "of": 2}, "requestId": "R"}, "part: the part's number is above the number of parts"),
        ({"part": {"number": 0, "of": 2}, "requestId": "R"}, "part.number: "),
        ({"part": {"number": 1, "of": 501}, "requestId": "R"}, "part.of: "),
        ({"part": {"number": 1, "of": 2}}, "message: a request in several parts needs a requestId"),
    ],
)
def test_a_bad_value_is_refused_with_field_and_fault(change: Body, problem: str) -> None:
    message = refused(PLAIN | change, limit=10**6)
    assert message.code is Code.MALFORMED
    assert any(found.startswith(problem) for found in message.problems), message.problems


def test_a_reason_may_have_several_lines_and_marks_that_its_script_needs() -> None:
    words = "INC-4711:\r\n\t\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert taken(PLAIN | {"reason": words}).reason == words


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('"reason": "a", "reason": "b"', "reason: is there twice"),
        ('"devices": [{"name": "OTHER"}], "reason": "a"', "devices: is there twice"),
        ('"part": {"number": 1, "number": 1, "of": 1}, "requestId": "R", "reason": "a"', "number: is there twice"),
        ('"reason": {"x": 1, "x": 2, "n": ' + "9" * 4000 + '}, "reason": "a"', "x: is there twice"),
    ],
)
def test_a_field_that_is_there_twice_is_refused_since_readers_disagree_about_which_counts(
    body: str, problem: str
) -> None:
    assert refused('{"requester": "a", "devices": [{"name": "PC"}], ' + body + "}").problems == (problem,)


@pytest.mark.parametrize("missing", ["requester", "reason", "devices"])
def test_what_must_be_said_is_asked_for_by_name(missing: str) -> None:
    body = {name: value for name, value in PLAIN.items() if name != missing}
    assert refused(body).problems == (f"{missing}: Field required",)


@pytest.mark.parametrize("body", ["", "not json", "null", "[]", '"x"', "{", "\ud800", '{"a":"\\ud800"}', "[" * 9000])
def test_what_is_no_json_object_is_refused_as_a_whole(body: str) -> None:
    message = refused(body)
    assert (message.code, message.outcome_queue) == (Code.MALFORMED, "reset-results")
    assert message.problems[0].startswith(("message: ", "requester: "))


def test_a_message_of_just_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    body = json.dumps(PLAIN | {"reason": "\u00e9"}, ensure_ascii=False)
    size = len(body.encode())
    assert isinstance(parse(body, size), ResetRequest)
    message = refused(body, size - 1)
    assert (message.code, message.problems) == (Code.TOO_LARGE, (f"message: larger than {size - 1} bytes",))


def test_a_refusal_goes_to_the_sender_under_the_senders_id_where_there_is_one() -> None:
    message = refused(PLAIN | {"requestId": "INC-4711", "outcomeQueue": "reset-results-desk", "devices": []})
    assert (message.id, message.outcome_queue) == ("INC-4711", "reset-results-desk")


@pytest.mark.parametrize("named", ["a/b", "", 4711, None, ["INC-4711"]])
def test_an_unusable_id_is_replaced_by_one_that_the_same_message_gets_again(named: object) -> None:
    body = PLAIN | {"requestId": named, "devices": []}
    assert refused(body).id == refused(body).id
    assert refused(body).id.startswith("message-")
    assert refused(body).id != refused(body | {"reason": "other"}).id


@pytest.mark.parametrize("queue", ["elsewhere", "reset-results-" + "x" * 60, 7, None])
def test_a_refusal_never_goes_to_a_queue_of_another_kind(queue: object) -> None:
    assert refused(PLAIN | {"outcomeQueue": queue, "devices": []}).outcome_queue == "reset-results"


def test_a_message_with_many_faults_names_the_first_twenty() -> None:
    assert len(refused(PLAIN | {"devices": [{}] * 100}).problems) == 20


def test_a_fault_stays_short_enough_to_be_told_however_long_the_field_that_has_it() -> None:
    """An outcome that fits into no row and no message would make the refusal itself fail, again and again."""
    problems = refused(PLAIN | {"x" * 2_500 + str(number): 1 for number in range(20)}).problems
    assert sum(map(len, problems)) < 10_000


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(), max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_no_text_makes_it_raise(body: str) -> None:
    assert isinstance(parse(body), RefusedMessage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*PLAIN, "requestId", "part", "notBefore", "outcomeQueue", "x"]), JSON))
def test_no_json_makes_it_raise(change: Body) -> None:
    assert isinstance(parse(json.dumps(PLAIN | change)), ResetRequest | RefusedMessage)


# --- one request, one id ------------------------------------------------------------------------------------------


def test_the_digest_is_the_same_whatever_the_order_of_keys_and_the_white_space() -> None:
    other = json.dumps(dict(reversed(PLAIN.items())), indent=4).replace("INC-4711", " INC-4711 ")
    again = parse(other)
    assert isinstance(again, ResetRequest)
    assert again.digest == taken(PLAIN).digest


def test_the_digest_stays_what_it_was_in_earlier_versions() -> None:
    """It is kept in the table: a change of it would refuse a repeated request as another one."""
    assert taken(PLAIN).digest == "8dd0756b16240d4f5c907a00c3bde72c0b29beef31fde391f8b4635681fcc3ba"
    assert taken(PLAIN).id == "request-8dd0756b16240d4f5c907a00"


@pytest.mark.parametrize(
    "change", [{"reason": "other"}, {"devices": [{"name": "SN-0001"}]}, {"readyBy": "2026-03-03T07:00:00Z"}]
)
def test_other_content_is_another_request(change: Body) -> None:
    assert taken(PLAIN | change).digest != taken(PLAIN).digest
    assert taken(PLAIN | change).id != taken(PLAIN).id


def test_the_same_instant_in_another_time_zone_is_the_same_request() -> None:
    instant = datetime(2026, 3, 3, 7, tzinfo=UTC)
    written = [instant.isoformat(), instant.astimezone(timezone(timedelta(hours=2))).isoformat()]
    assert len({taken(PLAIN | {"readyBy": time}).id for time in written}) == 1


def test_the_parts_of_a_request_agree_in_all_but_devices() -> None:
    one = taken(PLAIN | {"requestId": "R", "part": {"number": 1, "of": 2}})
    two = taken(PLAIN | {"requestId": "R", "part": {"number": 2, "of": 2}, "devices": [{"name": "x"}]})
    assert one.header_digest == two.header_digest
    assert one.digest != two.digest
    assert taken(PLAIN | {"requestId": "R", "reason": "other"}).header_digest != one.header_digest


# --- large requests -----------------------------------------------------------------------------------------------


def test_a_request_that_fits_is_one_message() -> None:
    (message,) = messages(taken(PLAIN), MAX_MESSAGE_BYTES)
    assert parse(message) == taken(PLAIN)


@pytest.mark.parametrize("named", [None, "INC-4711"])
def test_a_request_of_5000_devices_travels_in_parts_that_fit_and_loses_none(named: str | None) -> None:
    devices = [{"serialNumber": f"SN-{number:05}-\u00e9\u4e16"} for number in range(MAX_DEVICES)]
    request = ResetRequest.model_validate(PLAIN | {"devices": devices} | ({"requestId": named} if named else {}))
    limit = 48 * 1024
    texts = messages(request, limit)
    assert all(len(text.encode()) <= limit for text in texts)
    parts = [parse(text, limit) for text in texts]
    assert all(isinstance(part, ResetRequest) for part in parts)
    there = [part for part in parts if isinstance(part, ResetRequest)]
    assert [selector for part in there for selector in part.devices] == list(request.devices)
    assert {part.id for part in there} == {request.id}
    assert len({part.header_digest for part in there}) == 1
    assert [(part.part.number, part.part.of) for part in there if part.part] == [
        (number, len(texts)) for number in range(1, len(texts) + 1)
    ]


@settings(max_examples=60)
@given(
    st.lists(st.text(st.characters().filter(is_seen), min_size=1, max_size=30).filter(str.strip), min_size=1),
    st.integers(500, 2000),
)
def test_whatever_the_devices_are_called_the_parts_fit_and_lose_none(names: list[str], limit: int) -> None:
    request = ResetRequest.model_validate(PLAIN | {"devices": [{"name": name} for name in names]})
    parts = [parse(text, limit) for text in messages(request, limit)]
    assert [selector for part in parts if isinstance(part, ResetRequest) for selector in part.devices] == list(
        request.devices
    )


def test_a_device_that_fits_into_no_message_is_an_error_not_a_loss() -> None:
    request = taken(PLAIN | {"devices": [{"name": "x" * 200}, {"name": "y" * 200}]})
    with pytest.raises(ValueError, match="does not fit"):
        messages(request, 300)


def test_a_part_is_not_split_into_parts_again() -> None:
    """Its siblings count on its number; parts of a part would pass for the whole request."""
    request = taken(
        PLAIN
        | {"requestId": "R", "part": {"number": 2, "of": 3}, "devices": [{"name": f"LAB-{n}"} for n in range(100)]}
    )
    with pytest.raises(ValueError, match="part"):
        messages(request, 600)
