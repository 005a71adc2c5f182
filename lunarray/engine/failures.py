"""What fails: tried again, and then described instead of raised where the run is to go on."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lunarray.engine import accounts
from lunarray.errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    StoreChangedError,
    StoreWriteError,
)

#: Seconds before the first retry; doubled each time.
PAUSE = 0.1

#: Errors that come again however often one tries.
FINAL = (InputError, ModelError, MissingDependencyError, StoreWriteError, NotImplementedError)


@dataclass(frozen=True)
class Failure:
    """A block that failed for good: what a task gives in place of its result.

    `stage`: kind of task; `error`: class of the exception; `where`: last frame of the traceback.
    """

    stage: str
    error: str
    message: str
    attempts: int
    where: str = ""

    @classmethod
    def of(cls, stage: str, error: BaseException, attempts: int) -> Failure:
        """Describe an exception."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return cls(stage, type(error).__name__, str(error), attempts, where)


def attempt(
    call: Callable[[], Any],
    stage: str,
    *,
    retries: int,
    keep: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> Any:
    """Call a function; try again where it fails, and count its time for the stage.

    `stage`: kind of task; `keep` bool: give a Failure when it fails for good, instead of raising; `stopped`: tells
    whether the run is over, so that nothing is tried again. Returns what it returns, or a Failure. StoreWriteError if
    the store cannot be written any more, StoreChangedError if a store that is read is another one by now, whatever
    `keep` says: no block is to blame for that. Without `keep`, what it
    raised.
    """
    begin = time.perf_counter()
    for number in range(retries + 1):
        try:
            result = call()
            break
        except Exception as error:
            if isinstance(error, StoreWriteError | StoreChangedError) or stopped():
                raise
            if number == retries or isinstance(error, FINAL):
                if keep:
                    return Failure.of(stage, error, number + 1)
                raise
            accounts.event(
                "store",
                "retry",
                f"{stage}: {type(error).__name__}: {error}; trying again",
                stage=stage,
                error=type(error).__name__,
                attempt=number + 1,
            )
            time.sleep(PAUSE * 2**number)
    accounts.spend(f"task:{stage}", time.perf_counter() - begin)
    return result
