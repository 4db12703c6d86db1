"""What every section of the settings shares: numbers are finite, unknown keys are errors."""

from pydantic import ConfigDict

STRICT = ConfigDict(allow_inf_nan=False, extra="forbid")
