"""Two threads wake each other ROUNDS times by one kind of wait; prints how far the clock got, in us.

`ping_pong.py KIND ROUNDS`. One of them sleeps a millisecond in every tenth round. Beside them a process
sleeps 50 us at a time: at every other moment at which the clock thinks that both wait, it moves too far.
"""

import ctypes
import json
import mmap
import multiprocessing
import os
import random
import signal
import sys
import threading
import time


def words():
    """As the bells of vLLM's ring: words in shared memory, on different pages of it."""
    shim = ctypes.CDLL(None)
    shim.revati_warp_await_word.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64]

    def side():
        count = ctypes.c_uint32.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
        address = ctypes.c_void_p(ctypes.addressof(count))
        taken = 0

        def take():
            nonlocal taken
            while count.value == taken:
                shim.revati_warp_await_word(address, taken, -1)
            taken += 1

        return lambda: shim.revati_warp_bump_word(address), take

    return side(), side()


def semaphores():
    """Of the C library, in shared memory."""
    return tuple((s.release, s.acquire) for s in (multiprocessing.Semaphore(0), multiprocessing.Semaphore(0)))


def pipes():
    """Bytes through pipes."""
    ends = [os.pipe(), os.pipe()]
    return tuple((lambda w=w: os.write(w, b"m"), lambda r=r: os.read(r, 1)) for r, w in ends)


def conditions():
    """Between threads of one process, on private words."""
    return tuple((s.release, s.acquire) for s in (threading.Semaphore(0), threading.Semaphore(0)))


def turn(give, take, rounds, *, sleeps):
    """`give`, `take`, again and again; a little work now and then, so that they meet in many ways."""
    rnd = random.Random(rounds)
    for number in range(rounds):
        if sleeps and number % 10 == 0:
            time.sleep(1e-3)
        give()
        for _ in range(rnd.choice((0, 0, 1, 5, 20))):
            pass
        take()


def main():
    """Two processes, or two threads for `conditions`."""
    kind, rounds = sys.argv[1], int(sys.argv[2])
    (give_a, take_a), (give_b, take_b) = globals()[kind]()
    sleeper = os.fork()
    while sleeper == 0:
        time.sleep(50e-6)
    begin = time.monotonic()
    if kind == "conditions":
        other = threading.Thread(target=turn, args=(give_a, take_b, rounds), kwargs={"sleeps": False})
        other.start()
        turn(give_b, take_a, rounds, sleeps=True)
        other.join()
    else:
        child = os.fork()
        turn(*((give_b, take_a) if child else (give_a, take_b)), rounds, sleeps=child != 0)
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    took_us = (time.monotonic() - begin) * 1e6
    os.kill(sleeper, signal.SIGKILL)
    print(json.dumps({"took_us": took_us}))


main()
