"""The product's settings over a throw-away data directory; passwords hashed cheaply."""

import atexit
import os
import random
import shutil
import tempfile

from tests.ports import worker

_data_dir = tempfile.mkdtemp(prefix="infini-tests-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
os.environ["INFINI_DATA_DIR"] = _data_dir
# Instances of the tests really listen: a range of their own keeps two runs on one machine apart.
_random = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))  # the same in all workers of a run
_first_port = 11000 + (_random.randrange(210) + worker()) % 210 * 100
os.environ["INFINI_PORT_RANGE_FIRST"], os.environ["INFINI_PORT_RANGE_LAST"] = str(_first_port), str(_first_port + 99)

from infini.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Tests of their own wait for these; elsewhere they would only take time.
STABLE_SECONDS = DRAIN_SECONDS = 0.0
