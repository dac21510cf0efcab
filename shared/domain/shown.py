"""Text from outside, made safe to show: in a terminal, in a page, in a line of a log."""

import re

_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What is drawn as nothing although Python calls it printable: of the characters that Unicode names
Default_Ignorable_Code_Point those that are letters and marks, and the empty Braille pattern."""


def shown(text: str) -> str:
    """The text with every character escaped that a terminal would obey or that nobody would see.

    These are control characters, line breaks among them, marks of direction, blanks other than the space, characters
    drawn as nothing, unassigned ones, and halves of surrogate pairs. Shown again, the text stays as it is. A backslash
    stays too, as in `CONTOSO\\anna`, so an escape cannot be told from the same text written out.
    """
    if text.isprintable() and not _UNSEEN.search(text):
        return text
    return "".join(one if is_seen(one) else one.encode("unicode_escape").decode() for one in text)


def is_seen(one: str) -> bool:
    """Whether a character is drawn as itself, or is the space."""
    return one.isprintable() and not _UNSEEN.match(one)
