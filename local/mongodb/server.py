"""Runs SecantusDB with two of its methods mended; takes the arguments of its own program, secantusd-py.

The server keeps what it answered to each retryable write, up to 10,000 of them, and on every write, twice, looks at all of them
for those that are too old; once there are 10,000 it sorts them as well. After some ten thousand writes that is half of its
processor time. The records are in the order of their age, so it is enough to look at the oldest.

It stands still for ever where a collection is made while the first write to it makes it, too: one holds the server's lock and
tries again until the row of the collection is free, the other has that row and waits for the lock. Writes take the lock of
their collection before the server's; so does the making of a collection here.
"""

import functools
import sys

from secantus import storage, transactions
from secantus.cli import main


def prune(self) -> None:
    records = self._retryable
    cutoff = self._time() - transactions._RETRYABLE_RECORD_LIFETIME_SECONDS
    while records:
        oldest = next(iter(records))
        if len(records) <= transactions._RETRYABLE_RECORD_MAX and records[oldest][1] >= cutoff:
            return
        del records[oldest]


create = storage.Storage.create_collection


@functools.wraps(create)
def create_in_turn(self, db, coll, options=None):
    with self._coll_lock(db, coll):
        return create(self, db, coll, options)


# Another version may have them under other names: then this must be looked at again, not pass over it.
assert hasattr(transactions.TransactionRegistry, "_prune_retryable_locked")
assert hasattr(storage.Storage, "_coll_lock")
transactions.TransactionRegistry._prune_retryable_locked = prune
storage.Storage.create_collection = create_in_turn

sys.exit(main())
