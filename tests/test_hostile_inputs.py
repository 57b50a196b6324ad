"""Hostile inputs: everything public takes a value as documented, or refuses it clearly.

Cases are valid calls with one or two arguments replaced. Every value of an argument's kind says
what has to become of it (see `tests.cases.hostile`): the result of the valid call, or a TypeError
or ValueError that names the argument. Any other exception, a warning, a result that is not valid,
and a call that does not end are faults.

CI runs cases that it draws with the seed of the tests, `pytest -m slow` runs all of them.
"""

import collections
import contextlib
import itertools
import re
import signal
import threading
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from tests.cases.hostile import Made
from tests.cases.hostile_calls import CALLS, Call

_CI_CASES = 2_000
_SLOW_CASES = 20_000
_SECONDS = 60  # Of CPU time in user mode, after which a call hangs.


class _HangError(BaseException):
    """A call has not returned in time."""


class Case(NamedTuple):
    """A call and what replaces its arguments: by the argument's name, a value and its verdict."""

    call: Call
    replaced: dict[str, tuple[Any, str]]

    @property
    def expected(self) -> str:
        verdicts = [verdict for _, verdict in self.replaced.values()]
        return next((v for v in ("wrong", "unclear") if v in verdicts), "same")

    def __str__(self) -> str:
        values = (f"{name}={_short(value)}" for name, (value, _) in self.replaced.items())
        return f"{self.call.name}({', '.join(values)}): {self.expected}"


def _short(value: Any) -> str:
    value = _made(value)
    text = repr(value).replace("\n", " ")
    return (
        f"{text[:100]} ({type(value).__name__}{np.shape(value) if hasattr(value, 'shape') else ''})"
    )


def _made(value: Any) -> Any:
    return value.make() if isinstance(value, Made) else value


def _values(call: Call, name: str):
    kind = call.kinds[name]
    for verdict in ("same", "wrong", "unclear"):
        for value in getattr(kind, verdict):
            yield value, verdict


SINGLE = [
    Case(call, {name: replacement})
    for call in CALLS
    for name in call.kinds
    for replacement in _values(call, name)
]


def _pairs(rng, number):
    """Draws cases with two arguments replaced."""
    calls = [call for call in CALLS if len(call.kinds) > 1]
    for _ in range(number):
        call = calls[rng.integers(len(calls))]
        names = rng.choice(list(call.kinds), 2, replace=False).tolist()
        choices = (list(_values(call, name)) for name in names)
        chosen = [values[rng.integers(len(values))] if values else None for values in choices]
        yield Case(
            call, {n: value for n, value in zip(names, chosen, strict=True) if value is not None}
        )


@contextlib.contextmanager
def _limited_time():
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise _HangError(f"no answer after {_SECONDS} seconds")

    # Not SIGPROF: libtpu, which other tests load into the same process, profiles itself by it.
    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _leaves(result: Any) -> list[Any]:
    """Returns a result in a form that can be compared: bytes of arrays, and other leaves."""
    return [
        (leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes())
        if isinstance(leaf, jax.Array | np.ndarray | np.generic)
        else (leaf.shape, str(leaf.dtype))
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for leaf in jax.tree.leaves(result)
    ]


def _names(case: Case) -> str:
    return "|".join(
        rf"\b{re.escape(name)}\b|{case.call.names.get(name, name)}" for name in case.replaced
    )


class _Checker:
    """Runs cases and remembers the results of valid calls."""

    def __init__(self) -> None:
        self._valid: dict[int, list[Any]] = {}

    def problem(self, case: Case) -> str | None:
        """Runs a case; returns what is wrong with the outcome, or None."""
        try:
            with _limited_time():
                return self._problem(case)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return f"{type(error).__name__}: {error}"

    def _problem(self, case: Case) -> str | None:
        arguments = self._arguments(case)
        try:
            result = case.call.function(**{n: _made(v) for n, v in arguments.items()})
        except (TypeError, ValueError) as error:
            return self._problem_of_refusal(case, error)
        if case.expected == "wrong":
            return f"taken; the result is {_short(result)}"
        used = _leaves(case.call.use(result, arguments))
        if case.expected == "same" and used != self._valid_result(case.call):
            return "the result is not that of the valid call"
        return None

    def _problem_of_refusal(self, case: Case, error: Exception) -> str | None:
        if case.expected == "same":
            return f"refused: {error}"
        # Users who asked JAX to refuse mixed dtypes get its message.
        if isinstance(error, jax.dtypes.TypePromotionError) and case.expected == "unclear":
            return None
        if type(error) not in (TypeError, ValueError) or not re.search(_names(case), str(error)):
            return f"{type(error).__name__}, which does not name the argument: {error}"
        return None

    def _arguments(self, case: Case) -> dict[str, Any]:
        valid = {name: kind.valid for name, kind in case.call.kinds.items()}
        return valid | {name: value for name, (value, _) in case.replaced.items()}

    def _valid_result(self, call: Call) -> list[Any]:
        if id(call) not in self._valid:
            arguments = self._arguments(Case(call, {}))
            result = call.function(**{name: _made(value) for name, value in arguments.items()})
            self._valid[id(call)] = _leaves(call.use(result, arguments))
        return self._valid[id(call)]


def _run(cases):
    checker, found, start = _Checker(), [], time.process_time()
    verdicts = collections.Counter(case.expected for case in cases)
    for case in cases:
        with warnings.catch_warnings():
            # JAX says so itself where a float64 is asked for.
            warnings.filterwarnings("ignore", "Explicitly requested dtype")
            # Of an iterator in place of a tree. It is refused afterwards.
            warnings.filterwarnings("ignore", "Python iterable type")
            problem = checker.problem(case)
        if problem:
            # pytest-xdist cannot send a report that UTF-8 cannot encode, such as a lone surrogate.
            fault = f"{case}\n    {problem[:300]}"
            found.append(fault.encode(errors="backslashreplace").decode())
    print(f"{len(cases)} cases {dict(verdicts)}, {time.process_time() - start:.0f} s of CPU time")
    assert not found, f"{len(found)} faults:\n" + "\n".join(found)


def test_a_draw_of_hostile_inputs_is_answered_clearly(rng):
    chosen = rng.choice(len(SINGLE), _CI_CASES // 2, replace=False)
    _run([*(SINGLE[index] for index in chosen), *_pairs(rng, _CI_CASES // 2)])


@pytest.mark.slow
def test_all_hostile_inputs_are_answered_clearly(rng):
    _run([*SINGLE, *itertools.islice(_pairs(rng, _SLOW_CASES), _SLOW_CASES)])
