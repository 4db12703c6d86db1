"""What every section of the settings shares: numbers are finite, nothing is converted."""

from pydantic import ConfigDict

STRICT = ConfigDict(allow_inf_nan=False, extra="forbid", strict=True)
