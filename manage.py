#!/usr/bin/env python3
"""Django's command line for Infini; a wrong setting ends it with one line and exit code 2."""

import os
import sys


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"Infini needs Python 3.11 or newer; this is {sys.version.split()[0]}. Install one and try again.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        print(f"infini: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
