"""Runs SecantusDB with three of its functions and two of its limits mended; takes the arguments of its own program, secantusd-py.

The server keeps what it answered to each retryable write, up to 10,000 of them, and on every write, twice, looks at all of them
for those that are too old; once there are 10,000 it sorts them as well. After some ten thousand writes that is half of its
processor time. The records are in the order of their age, so it is enough to look at the oldest.

It stands still for ever where a collection is made while the first write to it makes it, too: one holds the server's lock and
tries again until the row of the collection is free, the other has that row and waits for the lock. Writes take the lock of
their collection before the server's; so does the making of a collection here.

It compares each document that an index has found for an `$in` with all of the list again, one by one: a thousand documents by
their ids take a second. Where all are ids or text, a set tells it at once.

It keeps the rows of all collections in a few tables of WiredTiger, which lets a page of them grow to 5 MB before whoever comes by has
to write it out. That cannot be done while anybody reads from before, as whoever waits for the server's lock does, and is tried ten
times, with pauses, for each row: whoever drops a database of some thousand documents meanwhile holds the lock for 20 to 50 seconds.
Pages of 64 MB hold all that a suite of tests has.

It closes connections beyond a thousand as soon as they are made, which a suite of tests that run side by side comes to. MongoDB
takes as many as its process may open files.
"""

import functools
import sys
import threading

from bson import ObjectId
from secantus import query, server, storage, transactions
from secantus.cli import main
from wiredtiger import Session


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


# Of these types, what is equal for Python is equal for the server, where no collation says otherwise.
exact_types = {ObjectId, str}
newest_list = threading.local()


def members_of(values):
    """The values of a list as a set; None where comparing them takes more than that."""
    if getattr(newest_list, "values", None) is not values:
        newest_list.values = values
        newest_list.members = set(values) if {type(value) for value in values} <= exact_types else None
    return newest_list.members


op_matches = query._op_matches


@functools.wraps(op_matches)
def op_matches_sooner(values, op, arg, collation=None, **options):
    if op == "$in" and collation is None and type(arg) is list and len(values) == 1 and type(values[0]) in exact_types:
        members = members_of(arg)
        if members is not None:
            return values[0] in members
    return op_matches(values, op, arg, collation, **options)


create_table = Session.create


@functools.wraps(create_table)
def create_with_large_pages(self, name, config=None):
    return create_table(self, name, f"{config},memory_page_max=64MB")


# Another version may have them under other names: then this must be looked at again, not pass over it.
assert hasattr(transactions.TransactionRegistry, "_prune_retryable_locked")
assert hasattr(storage.Storage, "_coll_lock")
assert "max_connections" in server.SecantusDBServer.__init__.__kwdefaults__
assert query._field_matches.__code__.co_names.count("_op_matches") == 1
transactions.TransactionRegistry._prune_retryable_locked = prune
storage.Storage.create_collection = create_in_turn
server.SecantusDBServer.__init__.__kwdefaults__["max_connections"] = 10_000
query._op_matches = op_matches_sooner
Session.create = create_with_large_pages

sys.exit(main())
