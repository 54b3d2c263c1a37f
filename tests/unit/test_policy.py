"""Policies are plain values with names a user can type."""

from __future__ import annotations

import pickle

import pytest

import tagvisor as tv


def test_short_and_long_names_are_one_policy() -> None:
    assert tv.linux("6.12") == tv.policy("linux-6.12") == tv.policy("6.12")
    assert tv.linux("6.12") != tv.linux("5.14")


@pytest.mark.parametrize("profile", tv.profiles(), ids=lambda profile: profile.name)
def test_every_profile_can_be_had_and_gives_every_knob_one_of_its_values(
    profile: tv.Profile,
) -> None:
    values = tv.policy(profile.name).knobs

    assert profile.summary
    assert list(values) == [knob.id for knob in tv.knobs()]
    for knob in tv.knobs():
        assert values[knob.id] in {value.name for value in knob.values}


def test_the_profiles_of_the_thread_are_there() -> None:
    assert {profile.name for profile in tv.profiles()} >= {
        "v10-series",
        "v17-series",
        "linux-5.10",
        "linux-5.14",
        "linux-6.1.38",
        "linux-6.1.39",
        "linux-6.12",
        "linux-7.3",
    }


@pytest.mark.parametrize(
    ("knob", "values"),
    [
        ("K1", ["restore", "page-free", "slot-free", "swapoff"]),
        ("K18", ["test-and-set", "global-lock", "test-clear-set", "lock", "lock-skip-zero"]),
        (
            "K22",
            [
                "cacheable",
                "refuse-offline",
                "device",
                "device-else-refuse",
                "no-tag-access",
                "refuse",
            ],
        ),
        ("K23", ["never", "slot", "fault", "slot-and-fault"]),
    ],
)
def test_the_knobs_of_the_thread_have_their_values(knob: str, values: list[str]) -> None:
    known = {entry.id: entry for entry in tv.knobs()}[knob]

    assert [value.name for value in known.values] == values
    assert known.doc
    assert known.source
    assert all(value.doc for value in known.values)


def test_a_replaced_knob_changes_that_knob_and_the_name() -> None:
    base = tv.linux("6.12")

    policy = base.replace(K1="restore", checked_at="never")

    assert policy.name == "linux-6.12 K1=restore K23=never"
    assert policy.knobs == {**base.knobs, "K1": "restore", "K23": "never"}
    assert base == tv.linux("6.12")


def test_policies_compare_hash_and_pickle() -> None:
    policy = tv.linux("6.12").replace(K1="restore")

    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - our own bytes
    assert len({policy, tv.linux("6.12"), tv.linux("6.12").replace(K1="restore")}) == 2


def test_a_host_runs_the_policy_it_was_given() -> None:
    policy = tv.policy("v10-series").replace(K22="refuse")

    assert tv.Host(policy).policy is policy
    assert tv.Host("v10-series").policy == tv.policy("v10-series")


def test_an_unknown_profile_says_which_exist() -> None:
    with pytest.raises(tv.UnknownProfileError) as raised:
        tv.policy("linux-2.4")

    assert raised.value.value == "linux-2.4"
    assert "v10-series" in str(raised.value)
    assert "linux-6.12" in str(raised.value)


def test_an_unknown_version_says_which_exist() -> None:
    with pytest.raises(
        tv.UnknownProfileError, match=r"version='2.4': expected one of 5.10, .*6.12"
    ):
        tv.linux("2.4")


def test_an_unknown_knob_says_which_exist() -> None:
    with pytest.raises(tv.UnknownKnobError) as raised:
        tv.linux("6.12").replace(K99="x")

    assert raised.value.value == "K99"
    assert "K1" in raised.value.expected


def test_an_unknown_value_says_which_the_knob_has() -> None:
    with pytest.raises(tv.UnknownKnobValueError) as raised:
        tv.linux("6.12").replace(K1="never")

    assert (raised.value.argument, raised.value.value) == ("K1", "never")
    assert "restore, page-free, slot-free, swapoff" in raised.value.expected
