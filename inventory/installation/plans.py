"""Which steps an installation has, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from inventory.installation import installing, removing, upgrading
from inventory.installation.states import Kind, StepState
from inventory.installation.work import Outcome, Work


@dataclass(frozen=True)
class Step:
    name: str
    label: Any
    run: Callable[[Work], Outcome]


PLANS: dict[str, list[Step]] = {
    Kind.INSTALL: [
        Step("look", _("Look at the machine"), installing.look),
        Step("file", _("Copy the agent"), installing.copy_file),
        Step("token", _("Write the token"), installing.put_token),
        Step("certificate", _("Set up TLS"), installing.put_certificate),
        Step("supervise", _("Have it kept running"), installing.supervise),
        Step("start", _("Start it"), installing.start),
        Step("report", _("First report"), installing.wait_for_report),
    ],
    Kind.UPGRADE: [
        Step("ask", _("Ask the agent"), upgrading.ask_version),
        Step("send", _("Send the newer agent"), upgrading.send),
        Step("restart", _("Start it again"), upgrading.restart),
        Step("report", _("New version reports"), upgrading.wait_for_version),
    ],
    Kind.REMOVE: [
        Step("look", _("Look at the machine"), removing.look),
        Step("instances", _("See to its instances"), removing.see_to_instances),
        Step("end", _("End the agent"), removing.end),
        Step("erase", _("Remove its files"), removing.erase),
        Step("forget", _("Forget its token"), removing.forget),
    ],
}


def fresh_steps(kind: str) -> list[dict[str, str]]:
    """The steps of a plan as they are stored before anything was done."""
    return [
        {
            "name": step.name,
            "state": StepState.WAITING.value,
            "text": "",
            "output": "",
            "started_at": "",
            "finished_at": "",
        }
        for step in PLANS[kind]
    ]


def label_of(kind: str, name: str) -> str:
    return next((str(step.label) for step in PLANS.get(kind, []) if step.name == name), name)
