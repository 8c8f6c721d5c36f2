"""The product's settings over a throw-away data directory; passwords hashed cheaply."""

import atexit
import os
import shutil
import tempfile

_data_dir = tempfile.mkdtemp(prefix="infini-tests-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
os.environ["INFINI_DATA_DIR"] = _data_dir

from infini.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
