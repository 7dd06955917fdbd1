"""Numbers that settings take."""

from dataclasses import dataclass

import pytest

from ibot.config.ranges import check_ranges
from ibot.errors import ConfigError


@dataclass
class Baking:
    minutes: int = 30
    shelves: tuple[float, ...] = (1.0, 2.0)
    fan: float | None = None


RANGES = (
    (("minutes", "shelves"), "above 0", lambda value: value > 0),
    (("fan",), "at most 1", lambda value: value <= 1),
)


@pytest.mark.parametrize("settings", [Baking(), Baking(1, (), 1.0)])
def test_what_fits_and_what_is_left_open_is_taken(settings):
    check_ranges(settings, RANGES, "baked")


@pytest.mark.parametrize(
    ("settings", "what", "why", "fix"),
    [
        (Baking(0), "minutes=0 cannot be baked with", "it must be above 0", "minutes=30"),
        (Baking(shelves=(1.0, -2.0)), "shelves=-2.0", "above 0", "shelves="),
        (Baking(fan=2.0), "fan=2.0 cannot be baked with", "at most 1", ""),
    ],
)
def test_a_number_out_of_its_range_is_named_with_what_would_fit(settings, what, why, fix):
    with pytest.raises(ConfigError, match=what) as error:
        check_ranges(settings, RANGES, "baked")
    assert why in error.value.why and fix in error.value.fix
