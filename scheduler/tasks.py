"""What django-q2 runs of commands. A job may run twice or die half-way: runs are claimed by a row with a lease."""

from scheduler import hosting


def carry_out() -> None:
    """Carry out all runs that are due, unless this machine's hosts do so already."""
    hosting.carry_out_due()
