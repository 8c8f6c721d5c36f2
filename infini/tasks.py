"""What django-q2 runs of the shared app. Each task may run twice or die half-way."""

from infini import alert_delivery


def deliver_alerts() -> None:
    """Send the alerts that are due: claimed first, so twice does no harm."""
    alert_delivery.deliver_due()
