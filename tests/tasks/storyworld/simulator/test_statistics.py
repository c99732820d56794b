"""Simulation: every share by hand on a world with two coin tosses."""

import math

import pytest

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def fork() -> World:
    """Half the plays burn a log; those alone may take the secret door."""
    return read(
        make(
            encounter("hut", option("burn", "hall", {"logs": -3}), option("wait", "hall")),
            encounter("hall", option("door", "vault", gates=[("logs", "<", 1)]), option("out", "field")),
            encounter("vault"),
            encounter("field", option("sleep", None), option("fall", "nowhere")),
            encounter("attic"),
        )
    )


def test_shares_on_a_world_of_coin_tosses() -> None:
    n = 4000
    result = simulate(fork(), n, 0)
    share = {rate.encounter: rate.share for rate in result.endings}
    assert list(share) == ["vault", "field", "attic"]
    assert share["vault"] == pytest.approx(1 / 4, abs=0.03)
    assert share["field"] == pytest.approx(3 / 8, abs=0.03)
    assert share["attic"] == 0
    assert result.dead_end_rate == result.outcomes["dangling"] == pytest.approx(3 / 8, abs=0.03)
    assert sum(result.outcomes.values()) == pytest.approx(1)
    assert result.reachability == pytest.approx(2 / 3)
    assert result.coverage == pytest.approx(4 / 5)
    assert result.secret_reach == share["vault"]
    p = share["vault"] / (share["vault"] + share["field"])
    assert result.entropy == pytest.approx(-p * math.log2(p) - (1 - p) * math.log2(1 - p))
    assert result.effective_endings == pytest.approx(2**result.entropy)
    assert result.path_diversity == 5 / n
    assert result.path_entropy == pytest.approx(3 * 1 / 4 * 2 + 2 * 1 / 8 * 3, abs=0.02)
    # Of plays of three steps the last one counts: the vault has no option, the field two open ones.
    assert result.late_block == 0


def test_gate_rates() -> None:
    (gate,) = simulate(fork(), 1000, 1).gates
    assert (gate.encounter, gate.option, gate.seen) == ("hall", "door", 1000)
    assert gate.open == pytest.approx(500, abs=60)
    assert gate.chosen == pytest.approx(250, abs=50)
    assert not gate.always_open
    assert not gate.never_open
    gates = simulate(read(lighthouse()), 500, 0).gates
    assert [g.always_open for g in gates] == [True, False, True, False]
    shut = read(make(encounter("a", option("x", None), option("y", None, gates=[("logs", ">", 9)]))))
    (never,) = simulate(shut, 10, 0).gates
    assert never.never_open
    assert not never.always_open


def test_options_closed_late_are_counted_in_the_last_third() -> None:
    shut = option("shut", None, gates=[("logs", ">", 9)])
    world = read(
        make(
            encounter("a", option("x", "b")), encounter("b", option("x", "c")), encounter("c", option("x", None), shut)
        )
    )
    assert simulate(world, 5, 0).late_block == 0.5


def test_spread_of_the_variables_at_the_end() -> None:
    result = simulate(fork(), 2000, 0)
    logs = result.variables["logs"]
    assert logs.mean == pytest.approx(1.5, abs=0.1)
    assert logs.std == pytest.approx(1.5, abs=0.1)
    assert logs.saturation == pytest.approx(0.5, abs=0.05)
    assert result.variables["Ada_calm"].saturation == 0


def test_one_ending_is_one_effective_ending_and_none_is_none() -> None:
    one = simulate(read(make(encounter("a"))), 3, 0)
    assert (one.effective_endings, one.entropy, one.dead_end_rate, one.reachability) == (1, 0, 0, 1)
    loop = simulate(read(make(encounter("a", option("x", "a")))), 3, 0)
    assert (loop.effective_endings, loop.dead_end_rate, loop.reachability) == (0, 1, 0)
    assert loop.outcomes == {"timeout": 1}
    assert simulate(World({}, {}, ()), 3, 0).outcomes == {"dangling": 1}


def test_an_ending_never_met_has_an_upper_bound() -> None:
    attic = simulate(fork(), 1000, 0).endings[-1]
    assert attic.low == 0
    assert 0 < attic.high < 0.004
    low, high = share_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_static_issues_name_what_a_reader_would_stumble_on() -> None:
    messages = [issue.message for issue in simulate(fork(), 1, 0).issues]
    assert messages == [
        "dangling reference: there is no encounter 'nowhere'",
        "no option leads to encounter 'attic'",
        "variable 'Ada_calm' is neither read by a gate nor changed",
    ]


def test_a_simulation_is_a_function_of_the_seed() -> None:
    assert simulate(fork(), 50, 1) == simulate(fork(), 50, 1)
    assert simulate(fork(), 50, 1) != simulate(fork(), 50, 2)
    with pytest.raises(ValueError, match="runs is 0"):
        simulate(fork(), 0, 0)
