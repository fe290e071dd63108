"""Names of sources mean what they say."""

from __future__ import annotations

import pytest

from distillability.config.sources import FREE_ALTERNATIVES, THIEVES, WAYS_OF_ASKING, parent_of, parse_source, source_names
from distillability.report.naming import kind_of, label

TEACHERS = {"distillable", "undistillable"}


def test_every_listed_name_can_be_parsed() -> None:
    names = source_names(TEACHERS)
    assert len(set(names)) == len(names)
    for name in names:
        source = parse_source(name, TEACHERS)
        assert source is not None and source.name == name
    assert set(FREE_ALTERNATIVES) <= set(names)


@pytest.mark.parametrize(
    ("name", "teacher", "prefill"),
    [
        ("undistillable_prefilled", "undistillable", "common"),
        ("undistillable_prefilled_oracle", "undistillable", "oracle"),
        ("plain_prefilled_oracle", "plain", "oracle"),
        ("distillable", "distillable", None),
        ("gold_steps", None, None),
    ],
)
def test_suffixes(name: str, teacher: str | None, prefill: str | None) -> None:
    source = parse_source(name, TEACHERS)
    assert source is not None and source.teacher == teacher and source.prefill == prefill


@pytest.mark.parametrize("way", WAYS_OF_ASKING)
def test_every_way_of_asking_has_words_of_its_own_in_a_report(way: str) -> None:
    assert parent_of(f"guard{way}") == "guard" and kind_of(f"guard{way}") == "elicitation"
    assert label(f"guard{way}").startswith("guard, ")
    assert set(THIEVES) < set(WAYS_OF_ASKING)


def test_a_thief_may_ask_at_another_temperature_and_choose() -> None:
    hot, chosen, both = (parse_source(f"undistillable{how}", TEACHERS) for how in ("_hot", "_likeliest_of_8", "_hot_likeliest_of_8"))
    assert hot is not None and chosen is not None and both is not None
    assert (hot.temperature, chosen.temperature, both.temperature) == (1.5, 1.0, 1.5)
    assert (hot.draws, chosen.draws, both.draws) == (1, 8, 8) and chosen.select == both.select == "likeliest"


@pytest.mark.parametrize("name", ["knob_0", "plain_prefiled", "gold_steps_prefilled", "undistillable_best_of_8"])
def test_unknown_names(name: str) -> None:
    assert parse_source(name, TEACHERS) is None
