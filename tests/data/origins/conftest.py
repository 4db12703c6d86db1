"""An origin's images as a plain list, to be compared with what went into the files."""

from collections.abc import Callable

import pytest

from data.origins.origin import Origin


@pytest.fixture
def held() -> Callable[[Origin], list[tuple[str, bytes, bytes]]]:
    """Class, name and bytes of each image of an origin, in its order."""

    def hold(origin: Origin) -> list[tuple[str, bytes, bytes]]:
        labels = [origin.classes[label] for label in origin.labels.tolist()]
        return [(label, origin.files[i], origin.read(i)) for i, label in enumerate(labels)]

    return hold
