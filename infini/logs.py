"""One line per log record: time, level, event name, then the fields given as ``extra``."""

import logging
import time

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "request", "server_time"}


class LineFormatter(logging.Formatter):
    """``2026-01-31T12:00:00Z INFO deploy.sent server_id=3`` with a trace below it when there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        return " ".join([super().formatMessage(record), *(f"{k}={v}" for k, v in fields.items())])
