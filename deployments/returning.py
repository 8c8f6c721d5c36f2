"""Going back by itself: what a rolling update does when its revision fails, at once or while it proves itself."""

from django.utils.translation import gettext_noop

from deployments.lifecycle import return_to_good
from deployments.models import Operation, Service
from deployments.phases import OperationState
from infini import alerts
from infini.alerts import Subject
from infini.errors import InfiniError
from infini.models import AlertKind


def go_back(operation: Operation, service: Service, reason: str) -> OperationState:
    """Open the operation that goes back, if there is anything to go back to; the state that ``operation`` ends in.

    Call inside the transaction that ends ``operation``, once it is no longer open.
    """
    try:
        returning = return_to_good(service, operation)
    except InfiniError as error:  # what was good no longer fits; an operation that cannot end helps nobody
        why = gettext_noop("%(reason)s It could not be taken back: %(message)s") % {
            "reason": reason,
            "message": error.message,
        }
        Operation.objects.filter(pk=operation.pk).update(state=OperationState.FAILED, reason=why[:500])
        return OperationState.FAILED
    if returning is None:
        return OperationState.FAILED
    good = returning.revision or service.good_revision
    reason = gettext_noop("%(revision)s failed, %(good)s is deployed again. %(reason)s") % {
        "revision": operation.revision,
        "good": good,
        "reason": reason,
    }
    Operation.objects.filter(pk=operation.pk).update(state=OperationState.RETURNED, reason=reason[:500])
    alerts.open_alert(AlertKind.ROLLED_BACK, Subject.of(service), reason)
    return OperationState.RETURNED
