"""Pictures, keys and rows that the inventory's tests begin with."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rest_framework.test import APIClient


@pytest.fixture
def uploads_dir(settings: Any, tmp_path: Path) -> Path:
    settings.UPLOADS_DIR = tmp_path / "uploads"
    return settings.UPLOADS_DIR


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """The bytes of a small picture in any format."""

    def make(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
        buffer = BytesIO()
        Image.new("RGB", size, "teal").save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def make(api: APIClient) -> Callable[..., dict]:
    """Create a row over the API and return it as answered."""

    def post(path: str, **values: Any) -> dict:
        answer = api.post(path, values, format="json")
        assert answer.status_code == 201, answer.content
        return answer.json()

    return post


@pytest.fixture
def brand(make: Callable[..., dict]) -> dict:
    return make("/api/brands", name="NVIDIA", vendor="nvidia")


@pytest.fixture
def card(make: Callable[..., dict], brand: dict) -> dict:
    return make(f"/api/brands/{brand['id']}/accelerators", name="H100", model="H100 SXM 80GB", memory=80)


@pytest.fixture
def server(make: Callable[..., dict]) -> dict:
    return make("/api/servers", name="gpu-1", host_ip="127.0.0.1")
