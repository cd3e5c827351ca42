"""Runs SecantusDB with one of its methods mended; takes the arguments of its own program, secantusd-py.

The server keeps what it answered to each retryable write, up to 10,000 of them, and on every write, twice, looks at all of them
for those that are too old; once there are 10,000 it sorts them as well. After some ten thousand writes that is half of its
processor time. The records are in the order of their age, so it is enough to look at the oldest.
"""

import sys

from secantus import transactions
from secantus.cli import main


def prune(self) -> None:
    records = self._retryable
    cutoff = self._time() - transactions._RETRYABLE_RECORD_LIFETIME_SECONDS
    while records:
        oldest = next(iter(records))
        if len(records) <= transactions._RETRYABLE_RECORD_MAX and records[oldest][1] >= cutoff:
            return
        del records[oldest]


# Another version may have it under another name: then this must be looked at again, not pass over it.
assert hasattr(transactions.TransactionRegistry, "_prune_retryable_locked")
transactions.TransactionRegistry._prune_retryable_locked = prune

sys.exit(main())
