"""How full Ray's object stores are, asked by a thread of its own.

Failure policy: the answer is for people who look at the run. If Ray does not answer, there is no
number, and the run goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import internal_api

log = logging.getLogger("eg_grpo")

_EVERY_S = 10.0
_ANSWER_S = 5.0


class ObjectStores:
    """The bytes of the object stores of all hosts together; None while they are not known."""

    used: int | None = None
    capacity: int | None = None


@contextmanager
def watched_object_stores() -> Iterator[ObjectStores]:
    """Look at the object stores every ten seconds as long as the context lasts."""
    stores, done = ObjectStores(), threading.Event()
    thread = threading.Thread(target=_watch, args=(stores, done), name="object stores", daemon=True)
    thread.start()
    try:
        yield stores
    finally:
        done.set()
        thread.join(_ANSWER_S)


def _watch(stores: ObjectStores, done: threading.Event) -> None:
    state = None
    while not done.is_set():
        try:
            # Ray has no public calls for this. They are those behind the command ``ray memory``.
            state = state or internal_api.get_state_from_address(
                ray.get_runtime_context().gcs_address
            )
            reply = internal_api.get_memory_info_reply(state, timeout_seconds=_ANSWER_S)
            found = reply.store_stats
            stores.used = found.object_store_bytes_used
            stores.capacity = found.object_store_bytes_avail
        except Exception as error:  # any of its own kinds, of gRPC and of another version of Ray
            log.debug("object stores: %s", error)
            stores.used = stores.capacity = None
        done.wait(_EVERY_S)
