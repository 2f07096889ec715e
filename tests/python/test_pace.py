"""The pace: when a replica pushes, pulls, polls, waits, tries again and what it says of itself; without a
core, a network or a clock."""

from __future__ import annotations

import random
from typing import Any

import pytest
from syncline._pace import Backoff, Do, Pace


def make(**options: Any) -> Pace:
    pace = Pace(**{"random": random.Random(1).random, "socket": False, **options})
    pace.join("s", 0.0)
    pace.start(0.0)
    return pace


def take(pace: Pace, what: str, now: float = 0.0) -> Do:
    do = pace.next(now)
    assert do is not None, f"{what} is wanted at {now}, and nothing is to be done"
    assert do.what == what
    return do


def reach(pace: Pace, now: float = 0.0) -> None:
    """The server is there, and the scope is pulled."""
    pace.done(take(pace, "health", now), now)
    pace.done(take(pace, "pull", now), now)
    pace.nothing(take(pace, "push", now))
    assert pace.next(now) is None


def test_it_asks_whether_the_server_is_there_then_pulls_then_pushes() -> None:
    pace = make()
    assert pace.state == "connecting"
    pace.done(take(pace, "health"), 0.0)
    assert pace.state == "syncing"
    assert take(pace, "pull").scope == "s"
    assert take(pace, "push").what == "push"
    assert pace.next(0.0) is None
    assert pace.wake(0.0) is None


def test_it_is_live_when_all_is_exchanged_and_polls_without_leaving_that() -> None:
    pace = make(poll=30.0)
    reach(pace)
    assert pace.state == "live"
    at = pace.wake(0.0)
    assert at is not None
    assert 27.0 <= at <= 33.0
    assert pace.next(at - 0.01) is None
    poll = take(pace, "pull", at)
    assert pace.state == "live"
    pace.done(poll, at, more=True)
    assert pace.state == "live"
    pace.done(take(pace, "pull", at), at)
    assert pace.state == "live"


def test_what_is_written_is_pushed_and_then_pulled() -> None:
    pace = make()
    reach(pace)
    pace.wrote(1.0)
    assert pace.state == "syncing"
    pace.done(take(pace, "push", 1.0), 1.0, unsent=True, pull=["s"])
    pace.done(take(pace, "push", 1.0), 1.0, unsent=False, pull=["s"])
    pace.done(take(pace, "pull", 1.0), 1.0)
    assert pace.next(1.0) is None
    assert pace.state == "live"


def test_an_endless_writer_does_not_keep_pulls_from_their_turn() -> None:
    pace = make()
    reach(pace)
    pace.poked("s", 0.0, news=True)
    pace.wrote(0.0)
    kinds = []
    for step in range(10):
        now = 0.3 * step
        do = pace.next(now)
        assert do is not None
        kinds.append(do.what)
        pace.done(do, now, unsent=True)
        if do.what == "pull":
            break
    assert kinds == ["push"] * 4 + ["pull"]


def test_one_push_and_one_pull_of_a_scope_are_under_way_at_most() -> None:
    pace = make()
    pace.join("t", 0.0)
    pace.done(take(pace, "health"), 0.0)
    pulls = {take(pace, "pull").scope, take(pace, "pull").scope}
    assert pulls == {"s", "t"}
    take(pace, "push")
    pace.wrote(0.0)
    pace.poked("s", 0.0, news=True)
    assert pace.next(0.0) is None


def test_a_server_that_is_gone_is_asked_for_ever_more_seldom_by_one_request() -> None:
    pace = make()
    pace.join("t", 0.0)
    reach_both = [take(pace, "health")]
    pace.done(reach_both[0], 0.0)
    first, second, push = take(pace, "pull"), take(pace, "pull"), take(pace, "push")
    for do in (first, second, push):
        pace.lost(do, 0.0, "no route")
    assert pace.state == "offline"
    assert pace.reason == "no route"
    now, waits = 0.0, []
    for _ in range(12):
        at = pace.wake(now)
        assert at is not None
        waits.append(at - now)
        now = at
        health = take(pace, "health", now)
        assert pace.next(now) is None, "one request finds out"
        assert pace.state == "offline", "it does not flicker while it tries"
        pace.lost(health, now, "no route")
    assert waits[0] < waits[3] < waits[6]
    assert max(waits) <= 30.0
    assert min(waits[-4:]) >= 15.0
    assert len({round(wait, 6) for wait in waits[-4:]}) == 4, "no two clients come back together"
    health = take(pace, "health", now + 31.0)
    pace.done(health, now + 31.0)
    assert pace.state == "syncing"


def test_waiting_is_cut_short_by_who_wants_it_now() -> None:
    pace = make()
    pace.lost(take(pace, "health"), 0.0)
    assert pace.next(0.0) is None
    pace.hurry(0.0)
    pace.done(take(pace, "health"), 0.0)


@pytest.mark.parametrize("what", ["push", "pull"])
def test_later_says_the_server_and_how_much_later(what: str) -> None:
    pace = make()
    reach(pace)
    pace.wrote(0.0) if what == "push" else pace.poked("s", 0.0, news=True)
    pace.wait(take(pace, what), 0.0, retry_after=7.0)
    assert pace.state == "syncing"
    at = pace.wake(0.0)
    assert at is not None
    assert 7.0 <= at <= 7.0 * 1.25
    take(pace, what, at)


def test_a_push_that_must_wait_keeps_no_pull() -> None:
    pace = make()
    reach(pace)
    pace.wrote(0.0)
    pace.wait(take(pace, "push"), 0.0, retry_after=60.0)
    pace.poked("s", 1.0, news=True)
    pace.done(take(pace, "pull", 1.0), 1.0)


def test_a_server_that_is_overloaded_is_offline_until_it_is_not() -> None:
    pace = make()
    pace.wait(take(pace, "health"), 0.0, 5.0, "the server answers 503")
    assert pace.state == "offline"
    assert pace.reason == "the server answers 503"
    at = pace.wake(0.0)
    assert at is not None
    assert at >= 5.0
    pace.done(take(pace, "health", at), at)
    assert pace.reason == ""


def test_what_the_server_refuses_for_good_is_tried_again_much_later_and_said() -> None:
    pace = make()
    reach(pace)
    pace.wrote(0.0)
    pace.failed(take(pace, "push"), 0.0, "invalid_request: no such field")
    assert (pace.state, pace.reason) == ("offline", "invalid_request: no such field")
    at = min(time for time, _, do in pace._plan(0.0) if do.what == "push")
    assert 60.0 <= at <= 120.0
    pace.poked("s", 1.0, news=True)
    pace.done(take(pace, "pull", 1.0), 1.0)
    assert pace.reason, "a pull that goes well does not hide it"


# ------------------------------------------------------------------------------------------------------ token


def test_the_token_is_asked_for_first_and_again_when_it_is_refused() -> None:
    pace = make(ask_token=True)
    pace.token_given(take(pace, "token"))
    pace.done(take(pace, "health"), 0.0)
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.wrote(1.0)
    pace.unauthenticated(take(pace, "push", 1.0), 1.0)
    assert pace.state == "syncing", "an expired token is nothing to be told"
    pace.token_given(take(pace, "token", 1.0))
    pace.done(take(pace, "push", 1.0), 1.0)
    assert pace.state == "live"


def test_a_new_token_that_is_refused_as_well_means_offline_and_ever_longer_waits() -> None:
    pace = make(ask_token=True)
    pace.token_given(take(pace, "token"))
    pace.done(take(pace, "health"), 0.0)
    pace.unauthenticated(take(pace, "pull"), 0.0, "unauthenticated: who are you?")
    assert pace.state == "syncing", "a second token is asked for at once"
    pace.token_given(take(pace, "token"))
    pace.unauthenticated(take(pace, "pull"), 0.0, "unauthenticated: who are you?")
    assert pace.state == "offline"
    assert "who are you" in pace.reason
    now, waits = 0.0, []
    for _ in range(4):
        at = pace.wake(now)
        assert at is not None
        waits.append(at - now)
        now = at
        pace.token_given(take(pace, "token", now))
        pace.unauthenticated(take(pace, "pull", now), now)
        assert pace.state == "offline"
    assert waits[0] < waits[2]
    pace.renew(now, ask=False)
    pace.done(take(pace, "pull", now), now)
    assert pace.reason == ""


def test_an_answer_to_the_old_token_does_not_doubt_the_new_one() -> None:
    pace = make(ask_token=True)
    pace.token_given(take(pace, "token"))
    pace.done(take(pace, "health"), 0.0)
    pull, push = take(pace, "pull"), take(pace, "push")
    pace.done(pull, 0.0)
    pace.unauthenticated(push, 0.0)
    pace.token_given(take(pace, "token"))
    late = Do("push", token=1)
    pace.unauthenticated(late, 0.0)
    assert take(pace, "push").token == 2


def test_a_function_that_has_no_token_is_asked_again() -> None:
    pace = make(ask_token=True)
    pace.token_failed(take(pace, "token"), 0.0, "no token: logged out")
    assert (pace.state, pace.reason) == ("offline", "no token: logged out")
    at = pace.wake(0.0)
    assert at is not None
    pace.token_given(take(pace, "token", at))
    pace.done(take(pace, "health", at), at)
    pace.done(take(pace, "pull", at), at)
    assert pace.reason == ""


# ----------------------------------------------------------------------------------------------------- socket


def open_socket(pace: Pace, now: float = 0.0) -> None:
    take(pace, "open_socket", now)
    pace.socket_opened()


def test_the_socket_is_opened_and_told_the_scopes_as_they_come_and_go() -> None:
    pace = make(socket=True)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    assert take(pace, "subscribe").scopes == ("s",)
    pace.join("t", 0.0)
    assert take(pace, "subscribe").scopes == ("t",)
    pace.leave("s")
    assert take(pace, "unsubscribe").scopes == ("s",)
    pace.leave("t")
    take(pace, "close_socket")


def test_a_poke_pulls_when_it_has_news() -> None:
    pace = make(socket=True)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    take(pace, "subscribe")
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.poked("s", 0.0, news=False)
    assert pace.next(0.0) is None
    pace.poked("s", 0.0, news=True)
    take(pace, "pull")


def test_a_socket_that_fails_comes_back_later_and_polls_go_on() -> None:
    pace = make(socket=True, poll=30.0)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    take(pace, "subscribe")
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.socket_closed(0.0, reason="1006")
    assert pace.state == "live"
    now, opened, polled = 0.0, 0, 0
    while now < 300.0:
        at = pace.wake(now)
        assert at is not None
        now = at
        do = pace.next(now)
        assert do is not None
        if do.what == "open_socket":
            opened += 1
            pace.socket_closed(now, reason="refused")
        else:
            polled += 1
            pace.done(do, now)
    assert 9 <= polled <= 12
    assert 8 <= opened <= 25


def test_goodbye_says_when_to_come_back() -> None:
    pace = make(socket=True, poll=1000.0)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    take(pace, "subscribe")
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.socket_closed(0.0, retry_after=40.0)
    at = pace.wake(0.0)
    assert at is not None
    assert 40.0 <= at <= 50.0
    take(pace, "open_socket", at)


def test_a_socket_that_refuses_a_scope_is_asked_again_when_a_poll_could_read_it() -> None:
    pace = make(socket=True)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    take(pace, "subscribe")
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.refused("s", 0.0)
    pace.done(take(pace, "pull"), 0.0, readable=False)
    assert pace.next(0.0) is None
    at = pace.wake(0.0)
    assert at is not None
    pace.done(take(pace, "pull", at), at, readable=True)
    assert take(pace, "subscribe", at).scopes == ("s",)


def test_a_socket_that_always_refuses_is_not_asked_without_end() -> None:
    pace = make(socket=True)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    asked, now = 0, 0.0
    while now < 300.0:
        do = pace.next(now)
        if do is None:
            at = pace.wake(now)
            assert at is not None
            now = max(now, at)
        elif do.what == "subscribe":
            asked += 1
            pace.refused("s", now)
        elif do.what == "push":
            pace.nothing(do)
        else:
            pace.done(do, now, readable=True)
    assert 8 <= asked <= 13


def test_a_socket_that_does_not_know_the_token_has_it_renewed() -> None:
    pace = make(socket=True, ask_token=True)
    pace.token_given(take(pace, "token"))
    pace.done(take(pace, "health"), 0.0)
    socket = take(pace, "open_socket")
    pace.done(take(pace, "pull"), 0.0)
    pace.nothing(take(pace, "push"))
    pace.socket_closed(0.0, unauthenticated=True, token=socket.token, reason="4401")
    take(pace, "token")


# ----------------------------------------------------------------------------------------- pause, sync, leave


def test_paused_is_silent_and_resumed_is_at_once() -> None:
    pace = make(socket=True)
    pace.done(take(pace, "health"), 0.0)
    open_socket(pace)
    pull = None
    while (do := pace.next(0.0)) is not None:
        pull = do if do.what == "pull" else pull
    pace.pause()
    assert (pace.state, pace.reason) == ("offline", "paused")
    take(pace, "close_socket")
    assert pull is not None
    pace.done(pull, 0.0)
    pace.wrote(0.0)
    assert pace.next(1000.0) is None
    assert pace.wake(0.0) is None
    pace.start(1000.0)
    assert pace.state == "connecting"
    take(pace, "health", 1000.0)
    pace.stop()
    assert pace.state == "stopped"
    pace.start(1000.0)
    assert pace.next(1000.0) is None


def test_a_pull_that_began_before_does_not_count_as_one_since() -> None:
    pace = make()
    pace.done(take(pace, "health"), 0.0)
    pull = take(pace, "pull")
    serial = pace.serial
    pace.hurry(0.0)
    pace.done(pull, 0.0)
    assert not pace.pulled_since(serial)
    pace.nothing(take(pace, "push"))
    pace.done(take(pace, "pull"), 0.0, more=True)
    assert not pace.pulled_since(serial)
    pace.done(take(pace, "pull"), 0.0)
    assert pace.pulled_since(serial)


def test_an_answer_for_a_scope_that_was_left_is_nobodys() -> None:
    pace = make()
    pace.done(take(pace, "health"), 0.0)
    pull = take(pace, "pull")
    pace.leave("s")
    pace.join("s", 0.0)
    again = take(pace, "pull")
    pace.done(pull, 0.0)
    assert pace.state == "syncing", "the new pull is still under way"
    pace.done(again, 0.0)
    pace.nothing(take(pace, "push"))
    assert pace.state == "live"


def test_backoff_doubles_up_to_its_cap_in_the_upper_half_of_each_step() -> None:
    backoff = Backoff(random.Random(7).random, first=1.0, cap=8.0)
    steps = [backoff.fail() for _ in range(8)]
    for wait, most in zip(steps, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert most / 2 <= wait <= most
    backoff.reset()
    assert backoff.fail() <= 1.0
    assert backoff.fail(retry_after=100.0) >= 100.0


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_it_neither_spins_nor_sleeps_for_ever(seed: int) -> None:
    """Random answers for two virtual hours: never more than a few requests a second on average, and once all
    goes well it comes to rest as "live"."""
    chance = random.Random(seed)
    pace = make(socket=True, ask_token=bool(seed % 2), random=chance.random)
    pace.join("t", 0.0)
    under_way: list[Do] = []
    now, done, opened = 0.0, 0, False

    def answer(do: Do, kind: str) -> None:
        nonlocal opened
        if do.what == "token":
            pace.token_given(do) if kind in ("done", "nothing") else pace.token_failed(do, now, "none")
        elif do.what == "open_socket":
            if kind == "done":
                pace.socket_opened()
                opened = True
            else:
                pace.socket_closed(now, retry_after=chance.choice((0.0, 20.0)))
        elif do.what in ("health", "push", "pull"):
            if kind == "done":
                pace.done(do, now, more=do.what == "pull" and chance.random() < 0.2)
            elif kind == "nothing" and do.what != "health":
                pace.nothing(do)
            elif kind == "wait":
                pace.wait(do, now)
            elif kind == "failed" and do.what != "health":
                pace.failed(do, now, "no")
            elif kind == "unauthenticated" and do.what != "health":
                pace.unauthenticated(do, now)
            else:
                pace.lost(do, now)

    kinds = ["done", "done", "nothing", "wait", "lost", "lost", "failed", "unauthenticated"]
    for _ in range(3000):
        if now > 7200.0:
            break
        while (do := pace.next(now)) is not None:
            under_way.append(do)
            done += 1
            assert done < 200 + 4 * now, "it spins"
        if under_way:
            now += 0.05 * chance.random()
            answer(under_way.pop(chance.randrange(len(under_way))), chance.choice(kinds))
        else:
            at = pace.wake(now)
            assert at is not None, "nothing is under way, and nothing will be done"
            now = max(now, at)
        if chance.random() < 0.05:
            pace.wrote(now) if chance.random() < 0.5 else pace.poked("s", now, news=True)
    pace.hurry(now)
    for _ in range(300):
        while (do := pace.next(now)) is not None:
            under_way.append(do)
        while under_way:
            do = under_way.pop()
            if do.what in ("health", "push", "pull"):
                pace.done(do, now)
            else:
                answer(do, "done")
        if pace.state == "live":
            break
        now = max(now, pace.wake(now) or now)
    assert pace.state == "live"
