"""The DALI engine."""

from collections.abc import Iterable, Iterator

from data.batches import Batch
from data.order import Request
from data.source import Source


class DaliLoader:
    """Loads the images of `source` with NVIDIA's DALI; on the CPU if `device_id` is None."""

    def __init__(self, source: Source, threads: int, device_id: int | None) -> None:
        self._source, self._threads, self._device_id = source, threads, device_id

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for the log."""
        return "dali"
