"""The site as one ASGI application: the gateway before Django, whose stack costs more than all else on that path."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django_app = get_asgi_application()  # loads the apps; what follows may import models

from infini.bodies import refuse_large_bodies  # noqa: E402

application = refuse_large_bodies(django_app)
