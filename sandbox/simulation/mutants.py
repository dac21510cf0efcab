"""`python -m sandbox.simulation.mutants`: breaks a copy of the code on purpose, and shows that the days notice.

Each mutation is one that a hurried change might make. A copy of the code is patched and days are played, seed by seed,
until a rule does not hold. What no day notices within SEEDS is named: then a rule or a kind of trouble is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS, SIZE = 400, 6
"""Within so many days, of so many devices at most, each mutation must be noticed."""
COPIED = ("shared", "sandbox", "host.json", "local.settings.sample.json")


@dataclass(frozen=True)
class Mutation:
    """What is broken: in a file, the one place that reads `old` reads `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "a row is written whatever its ETag is",
        "shared/state/rows.py",
        'return Change(ChangeKind.REPLACE, key, {"doc": doc(record), **columns}, etag)',
        'return Change(ChangeKind.PUT, key, {"doc": doc(record), **columns})',
    ),
    Mutation(
        "an order whose answer was lost is sent again",
        "shared/pipeline/dispatch.py",
        "    answers = await intune.reset(orders)\n",
        "    answers = await intune.reset(orders)\n"
        "    if lost := [order for order in orders if answers[order.device].kind is AnswerKind.UNKNOWN]:\n"
        "        answers = {**answers, **await intune.reset(lost)}\n",
    ),
    Mutation(
        "a 503 is taken for a plain no",
        "shared/graph/answers.py",
        '        AnswerKind.UNKNOWN,\n        f"Graph answered {reply.status}, which',
        '        AnswerKind.NOT_SENT,\n        f"Graph answered {reply.status}, which',
    ),
    Mutation(
        "a lost answer is settled at the first look",
        "shared/domain/lifecycle.py",
        "or sighting.seen_at < reset.sent_at + policy.audit_after",
        "or sighting.seen_at < reset.sent_at",
    ),
    Mutation(
        "a lost answer is settled without the audit",
        "shared/domain/lifecycle.py",
        "    if shown or happening.audited:\n",
        "    if shown:\n",
    ),
    Mutation(
        "orders are sent before they are committed",
        "shared/pipeline/dispatch.py",
        "        happenings = {order.device: [Sending(order.id, fresh[order.device])] for order in orders}\n",
        "        await (await parts.intune()).reset(orders)\n"
        "        happenings = {order.device: [Sending(order.id, fresh[order.device])] for order in orders}\n",
    ),
    Mutation(
        "what was committed to go out is forgotten by the sweep",
        "shared/pipeline/sweep.py",
        "    if left:\n",
        "    if False:\n",
    ),
    Mutation(
        "notices go out before they are committed",
        "shared/pipeline/advance.py",
        "        groups = [changes for _, changes, _ in pending.values()]\n",
        "        groups = [changes for _, changes, _ in pending.values()]\n"
        "        await flush(parts, [out for _, _, outs in pending.values() for out in outs])\n",
    ),
    Mutation(
        "the halt does not change what sends change",
        "shared/pipeline/gate.py",
        "changes = [rows.put(rows.HALT, Halt(by, why, now)), sends, rows.insert_event(event)]",
        "changes = [rows.put(rows.HALT, Halt(by, why, now)), rows.insert_event(event)]",
    ),
    Mutation(
        "the halt holds nothing",
        "shared/domain/guardrails.py",
        "    if halt is not None:\n        return Hold(",
        "    if False:\n        return Hold(",
    ),
    Mutation(
        "caps are counted outside the transaction",
        "shared/pipeline/dispatch.py",
        "            rows.replace(rows.ORDERS, counted.etag, counted.record.plus(len(orders), now, len(without))),\n",
        "            rows.put(rows.ORDERS, counted.record.plus(len(orders), now, len(without))),\n",
    ),
    Mutation(
        "the cap of an hour is not looked at",
        "shared/domain/guardrails.py",
        "(policy.resets_per_hour - orders.this_hour(now), Code.HOURLY_LIMIT, next_hour(now)),",
        "(500, Code.HOURLY_LIMIT, next_hour(now)),",
    ),
    Mutation(
        "resets without a second person are not counted",
        "shared/domain/guardrails.py",
        "without[day_of(now)] = without.get(day_of(now), 0) + unapproved",
        "without[day_of(now)] = 0",
    ),
    Mutation(
        "the resets of one device are not counted",
        "shared/domain/guardrails.py",
        "    if earlier < policy.resets_per_device:\n",
        "    if earlier < 500:\n",
    ),
    Mutation(
        "an approval is good for any digest",
        "shared/domain/guardrails.py",
        "    if approval.digest != digest:\n        return Reason(Code.DIGEST_DIFFERS)\n",
        "",
    ),
    Mutation(
        "people approve their own requests",
        "shared/domain/guardrails.py",
        "    if folded(approval.by) == folded(requester):\n        return Reason(Code.OWN_REQUEST)\n",
        "",
    ),
    Mutation(
        "anybody approves",
        "shared/domain/guardrails.py",
        "    if matching([approval.by], policy.approvers) is None:\n        return Reason(Code.NOT_AN_APPROVER)\n",
        "",
    ),
    Mutation(
        "a wave does not wait for the one before",
        "shared/domain/guardrails.py",
        "    if terms is not None and wave > terms.wave:\n",
        "    if terms is not None and terms.stopped and wave > terms.wave:\n",
    ),
    Mutation(
        "requests start before their time",
        "shared/domain/guardrails.py",
        "    if not_before is not None and not_before > now:\n",
        "    if False:\n",
    ),
    Mutation(
        "requests never get too old",
        "shared/domain/lifecycle.py",
        "    return reset.expires_at is not None and at >= reset.expires_at\n",
        "    return False\n",
    ),
    Mutation(
        "protected devices are not protected",
        "shared/domain/eligibility.py",
        "if entry := matching(_names(facts), policy.protected_devices):",
        "if entry := matching(_names(facts), frozenset[str]()):",
    ),
    Mutation(
        "what is pending on a device is not looked for",
        "shared/pipeline/dispatch.py",
        "one.before.pending_actions is None",
        "False",
    ),
    Mutation(
        "an Autopilot Reset is sent as a full wipe",
        "shared/graph/sdk.py",
        '"Autopilot Reset", keep_enrollment_data=True',
        '"Autopilot Reset", keep_enrollment_data=False',
    ),
    Mutation(
        "a stale sighting counts",
        "shared/domain/evidence.py",
        "        return proof  # a stale read: what else it shows is of that time too\n",
        "        pass\n",
    ),
    Mutation(
        "the first check-in after the silence is enough",
        "shared/domain/evidence.py",
        "return proof.returned_at is not None and proof.awake and done(reset) and tested(reset)",
        "return proof.returned_at is not None and done(reset) and tested(reset)",
    ),
    Mutation(
        "signs of the order count as signs of its end",
        "shared/domain/evidence.py",
        "return proof.returned_at is not None and proof.awake and done(reset) and tested(reset)",
        "return proof.returned_at is not None and proof.awake and done(reset)",
    ),
    Mutation(
        "what shows only after the return is proof at once",
        "shared/domain/evidence.py",
        "    if news and proof.returned_at is not None and not late_sign(proof):\n",
        "    if False:\n",
    ),
    Mutation(
        "an action that is done only after the return is proof at once",
        "shared/domain/evidence.py",
        " or (done and not reset.proof.done)\n",
        "\n",
    ),
    Mutation(
        "a device is ready when it is back",
        "shared/domain/evidence.py",
        "return proof.returned_at is not None and proof.awake and done(reset) and tested(reset)",
        "return proof.returned_at is not None and proof.awake",
    ),
    Mutation(
        "a request that comes twice is taken in twice",
        "shared/pipeline/intake.py",
        "            if _about(one) in ended or mine:\n                continue\n",
        "            if mine:\n                continue\n",
    ),
    Mutation(
        "an ended device keeps its wake-up",
        "shared/state/store.py",
        "        return [*changes, rows.delete(key, old.etag)] if old is not None else changes\n",
        "        return [rows.delete(key, old.etag)] if old is not None else changes\n",
    ),
    Mutation(
        "history is not numbered",
        "shared/domain/lifecycle.py",
        "        self.set(seq=reset.seq + 1, noted_at=at)\n",
        "        self.set(seq=reset.seq, noted_at=at)\n",
    ),
    Mutation(
        "a message set aside is forgotten",
        "shared/pipeline/poison.py",
        "    if queue == NOTICES and (undelivered",
        "    return\n    if queue == NOTICES and (undelivered",
    ),
    Mutation(
        "lost turns are not given again",
        "shared/domain/lifecycle.py",
        "            course.set(next_step=now + policy.redispatch_after)\n"
        "            course.effects.add(Effect.DISPATCH)\n",
        "            course.set(next_step=None)\n",
    ),
    Mutation(
        "no deadline calls a person",
        "shared/domain/lifecycle.py",
        "    if now >= reset.deadline:\n        _overdue(course)\n",
        "    if False:\n        _overdue(course)\n",
    ),
    Mutation(
        "an empty answer counts as a look at the device",
        "shared/domain/evidence.py",
        "    if last_sync is None:\n        return proof",
        "    last_sync = last_sync or sighting.seen_at\n    if False:\n        return proof",
    ),
    Mutation(
        "writes are not paced",
        "shared/pipeline/pace.py",
        "        await parts.sleep(wait)\n",
        "        pass\n",
    ),
    Mutation(
        "notices about a device carry no order",
        "shared/domain/notices.py",
        'sequence = f"{event.seq:06}" if _about_device(event) else ""',
        'sequence = ""',
    ),
    Mutation(
        "a notice that fails repeats those that share its message",
        "shared/pipeline/notify.py",
        "        if left == notices:\n",
        "        if left:\n",
    ),
    Mutation(
        "notices are handed on in another order",
        "shared/pipeline/notify.py",
        "for notice in notices))",
        "for notice in reversed(notices)))",
    ),
    Mutation(
        "history has the time of whoever writes it",
        "shared/domain/lifecycle.py",
        "        return max(self.now, self.reset.noted_at or self.reset.since)\n",
        "        return self.now\n",
    ),
    Mutation(
        "a lab window opens at every tick",
        "shared/pipeline/windows.py",
        "    while await parts.store.window_opened(request.id) is None:\n",
        "    while True:\n        await parts.store.drop([rows.window_key(request.id)])\n",
    ),
    Mutation(
        "a lab window opens at its minute or never",
        "shared/domain/timing.py",
        "        if opened + open_for > now:\n",
        "        if opened + timedelta(minutes=1) > now:\n",
    ),
    Mutation(
        "lab windows keep to UTC",
        "shared/domain/timing.py",
        "    start = (now - open_for).astimezone(zone)\n",
        "    start = (now - open_for).astimezone(UTC)\n",
    ),
    Mutation(
        "anybody may use the id of a lab window",
        "shared/pipeline/intake.py",
        "    if not request.id.startswith(WINDOW_ID):\n        return True\n",
        "    if request.id:\n        return True\n",
    ),
    Mutation(
        "an opened lab window is forgotten with its request",
        "shared/pipeline/retention.py",
        "windows=now - max(parts.policy.retention, LONGEST_OPEN)",
        "windows=now - parts.policy.retention",
    ),
    Mutation(
        "a request is forgotten while its devices are in flight",
        "shared/state/store.py",
        " or request.id in flying:\n",
        ":\n",
    ),
    Mutation(
        "a request's messages are never forgotten",
        "shared/state/store.py",
        "*parts, row.key]",
        "row.key]",
    ),
    Mutation(
        "what was refused is never forgotten",
        "shared/state/store.py",
        '        for about in ("request:", "control|"):\n',
        '        for about in ("control|",):\n',
    ),
    Mutation(
        "an order that was not taken gives back those that were",
        "shared/pipeline/dispatch.py",
        "    left = replace(booked, devices=devices)\n",
        "    left = replace(booked, devices={})\n",
    ),
    Mutation(
        "a device that enrolled anew counts as another",
        "shared/pipeline/decide.py",
        "met.sent.get(device.serial_number or device.id, 0)",
        "0",
    ),
)


def broken(mutation: Mutation, root: Path) -> str | None:
    """The file of the code at `root` as the mutation leaves it; None where the place is not there once."""
    text = (root / mutation.file).read_text("utf-8")
    return text.replace(mutation.old, mutation.new) if text.count(mutation.old) == 1 else None


def copy(root: Path) -> None:
    """Copy the code that is mutated, and what plays the days: nothing that is changed meanwhile plays a part."""
    for name in COPIED:
        source, target = ROOT / name, root / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("node_modules", "__pycache__")
            shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def noticed(root: Path, seeds: int, size: int) -> tuple[int, str] | None:
    """The first seed whose day notices, and by which rule; None where none does."""
    days = ("--first", "1", "--seeds", str(seeds), "--size", str(size), "--processes", "1", "--stop")
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (sys.executable, "-m", "sandbox.simulation", *days)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"^seed (\d+) fails.*\n +(.*)$", done.stdout, re.MULTILINE)
    if found is None and done.returncode:
        return 0, (done.stderr.strip().splitlines() or ["it does not run"])[-1]
    return None if found is None else (int(found[1]), found[2])


def tried(mutation: Mutation, root: Path, seeds: int, size: int) -> tuple[str, str]:
    """The seed that noticed a mutation of the code at `root`, and the rule in short; what went wrong where none did."""
    path = root / mutation.file
    before, after = path.read_text("utf-8"), broken(mutation, root)
    if after is None:
        return "UNFIT", f"{mutation.file} has no such place, or several"
    path.write_text(after, "utf-8")
    found = noticed(root, seeds, size)
    path.write_text(before, "utf-8")
    if found is None:
        return "MISSED", f"by {seeds} seeds"
    seed, rule = found
    return str(seed) if seed else "UNFIT", re.sub(r" \(\S+\)$", "", rule).split(": ")[0] if seed else rule


def main() -> int:
    """Try them all, or those whose names hold a word; 1 where one is not noticed, or does not fit the code any more."""
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="only mutations whose names hold this")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--size", type=int, default=SIZE)
    given = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if given.word in mutation.name]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy(root)
        if found := noticed(root, given.seeds, given.size):
            print(f"the code as it is fails at seed {found[0]}: {found[1]}")
            return 1
        print("| what is broken | the rule that notices | seed |\n|---|---|--:|", flush=True)
        for mutation in chosen:
            seed, rule = tried(mutation, root, given.seeds, given.size)
            missed += not seed.isdigit()
            print(f"| {mutation.name} | {rule} | {seed} |", flush=True)
    print(f"\n{len(chosen) - missed} of {len(chosen)} mutations are noticed within {given.seeds} days")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
