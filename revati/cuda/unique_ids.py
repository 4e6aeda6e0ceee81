"""`uuid.uuid1()` without libuuid, which gives one id twice where time stands.

Asked eleven times within one microsecond, libuuid counts into the next one, and forgets that it did. On a
real machine nobody asks so fast. In virtual time a burst of calls takes no time (`free`) or little, and
vLLM's client numbers its calls to the engine core so. Python's own way, used where it was built without
libuuid, keeps count.
"""

from __future__ import annotations


def install() -> None:
    """Let this process make time-based ids in Python."""
    import uuid

    from revati.cuda import ledger

    if getattr(uuid, "_generate_time_safe", None) is None:
        return
    uuid.getnode()  # by libuuid: Python's own way would start programs to find the address
    ledger.replace(
        uuid,
        "_generate_time_safe",
        None,
        why="libuuid gives one id twice where time stands",
        until="never: it was written for clocks that move",
    )
