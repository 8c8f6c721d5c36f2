"""What django-q2 runs for the inventory. Each task may run twice or die half-way: rows are claimed first."""

from inventory.installation import runner


def work_off_installations() -> None:
    """Install, upgrade and remove what is due; runs in the cluster `runs`."""
    runner.work_off()
