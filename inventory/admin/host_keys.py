"""What is asked before a host key is pinned: both fingerprints, and the server's name when another was pinned."""

from django.utils.translation import gettext as _

from infini.confirmation import Question, typed_name
from inventory.models import Server
from inventory.ssh import host_keys

LOOK = "ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub"


def pinning_question(server: Server, *, back: str) -> Question:
    known = host_keys.host_key_of(server)
    offered = (_("Offered"), known.offered_fingerprint)
    if known.state != "changed":
        return Question(
            title=_("Confirm the host key of %(server)s?") % {"server": server},
            effect=_("From then on only a server that holds this key is talked to. Compare the two first."),
            facts=[offered, (_("What the server itself says"), LOOK)],
            button=_("Confirm the key"),
            back=back,
        )
    return Question(
        title=_("Pin another host key of %(server)s?") % {"server": server},
        effect=_(
            "Do it only when you know why the key changed. Passwords and commands are sent to whoever holds this key."
        ),
        facts=[(_("Pinned"), known.fingerprint), offered],
        button=_("Pin the new key"),
        word=typed_name([server]),
        danger=True,
        back=back,
    )
