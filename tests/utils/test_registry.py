"""Names outside a table."""

import pytest

from utils import errors
from utils.errors import TrainingError, UsageError
from utils.registry import choose, nearest

TABLE = {"resnet18": 1, "resnet50": 2, "mobilenet_v1": 3}


def test_name_picks_its_row() -> None:
    assert choose(TABLE, "resnet50", "--model") == 2


def test_unknown_name_is_told_with_the_nearest_and_the_choices() -> None:
    with pytest.raises(UsageError) as error:
        choose(TABLE, "reset50", "--model")
    expected = "--model reset50 is not known; did you mean resnet50? choose from mobilenet_v1, resnet18, resnet50"
    assert str(error.value) == expected


def test_name_like_no_other_gets_no_guess() -> None:
    assert nearest("zzz", TABLE) is None
    assert nearest("mobilenetv1", TABLE) == "mobilenet_v1"
    with pytest.raises(UsageError, match=r"^--model zzz is not known; choose from mobilenet_v1"):
        choose(TABLE, "zzz", "--model")


def test_exit_codes_are_those_of_the_design() -> None:
    codes = {name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type)}
    expected = {"UsageError": 2, "DataError": 3, "CheckpointError": 4, "NumericsError": 5, "DistributedError": 6}
    assert codes == expected | {"EnvironmentFault": 7, "StopRequested": 75, "TrainingError": 1}
    assert all(issubclass(getattr(errors, name), TrainingError) for name in codes)
