"""What the installer says of a server: in English, so it is said in the reader's language when shown."""

from django.utils.translation import gettext_noop

# As agent/install_agent.py writes them, with a name for each blank; a test compares.
SENTENCES = (
    gettext_noop("it does not run"),
    gettext_noop("it was started with another command line"),
    gettext_noop("nothing keeps it running"),
    gettext_noop("it does not answer: %(error)s"),
    gettext_noop("it shows another certificate than the one on disk"),
    gettext_noop("it runs another version than the file on disk"),
    gettext_noop("its file is newer than it"),
    gettext_noop("There is neither systemd nor cron."),
    gettext_noop("cron is installed and does not run."),
    gettext_noop("%(path)s is no directory."),
    gettext_noop("%(path)s cannot be written to by %(account)s."),
    gettext_noop("another program"),
    gettext_noop("process %(pid)d (%(name)s)"),
    gettext_noop("%(path)s cannot be written: %(error)s."),
    gettext_noop("%(path)s cannot be run: %(error)s."),
    gettext_noop("%(command)s did not end within %(n)d s."),
    gettext_noop("%(command)s failed with exit code %(code)d."),
    gettext_noop("The crontab of this account cannot be read. Is cron installed?"),
    gettext_noop("Process %(pid)d does not end."),
    gettext_noop("The certificate and its key on the server do not fit each other; try again."),
    gettext_noop("The agent was started and is not well after %(n)d s: %(why)s."),
    gettext_noop("These instances do not end: %(names)s."),
    gettext_noop("The agent still runs."),
)
