"""The text of a queue message."""

import base64
import binascii

import azure.functions as func


def text(message: func.QueueMessage) -> str:
    """The message's text, whether its sender used base64 or not.

    host.json sets the encoding to none, so that the host hands over what it finds: JSON begins with a brace or a blank,
    neither of which base64 has. Bytes that are no UTF-8 come out as replacement characters, which no contract allows.
    """
    body: bytes = message.get_body()
    try:
        decoded = base64.b64decode(body.strip(), validate=True)
    except (binascii.Error, ValueError):
        return body.decode("utf-8", "replace")
    return decoded.decode("utf-8", "replace")
