"""How a delivery ends when it does not succeed. What is raised decides whether there is another try.

MailError
├── MailDeferred       not now: this mail is tried again (4xx)
├── MailRefused        never: this mail has failed, the others go on (5xx)
└── MailServerAway     nothing can be sent at the moment: every mail that is due is tried again later
"""

from __future__ import annotations

from comporta.errors import ComportaError


class MailError(ComportaError):
    """A mail was not taken; the message is what the server or the network said."""


class MailDeferred(MailError):
    """The mail server asks to try again later, for this mail."""


class MailRefused(MailError):
    """The mail server will not take this mail, now or later."""


class MailServerAway(MailError):
    """No mail server answers, it is too slow, or it refuses to talk to us at all."""
