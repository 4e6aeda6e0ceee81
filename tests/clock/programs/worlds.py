"""Plays worlds of processes that sleep and send messages; prints what every process received, and when (us).

A world is {"channels": [kind...], "programs": [[op...]...], "pause": us}. An op is ["sleep", us],
["send", channel], ["recv", channel] or ["report", 0]. After its program process 0 takes the reports of all
others in the order in which they come and sleeps `pause` after each one.
"""

import ctypes
import json
import mmap
import multiprocessing
import os
import pathlib
import select
import socket
import sys
import tempfile
import time


def zmq_socket(kind):
    import zmq

    return zmq.Context.instance().socket(getattr(zmq, kind))


def word_in_shared_memory(number):
    """As the bells of vLLM's ring: whoever sends counts up, whoever receives waits for the next count."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    count = ctypes.c_uint32.from_buffer(memory, 64 * number % mmap.PAGESIZE)
    address, shim = ctypes.c_void_p(ctypes.addressof(count)), ctypes.CDLL(None)
    shim.revati_warp_await_word.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64]
    taken = 0

    def send(_):
        shim.revati_warp_bump_word(address)

    def receive():
        nonlocal taken
        while count.value == taken:
            shim.revati_warp_await_word(address, taken, -1)
        taken += 1
        return b"m"

    return lambda: send, lambda: receive, []


def semaphore():
    counter = multiprocessing.get_context("fork").Semaphore(0)

    def receive():
        counter.acquire()
        return b"m"

    return lambda: lambda _: counter.release(), lambda: receive, []


def open_channel(kind, number, folder):
    """(make the sender, make the receiver, objects to close)."""
    if kind == "word":
        return word_in_shared_memory(number)
    if kind == "semaphore":
        return semaphore()
    if kind == "pipe":
        r, w = os.pipe()
        return lambda: lambda b: os.write(w, b), lambda: lambda: os.read(r, 1), [r, w]
    if kind in ("unix", "tcp"):
        if kind == "unix":
            a, b = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                a = socket.create_connection(listener.getsockname())
                b, _ = listener.accept()
        return lambda: a.sendall, lambda: lambda: b.recv(1), [a, b]
    address = f"ipc://{folder}/z{number}"

    def sender():
        s = zmq_socket("PUSH")
        s.connect(address)
        return s.send

    def receiver():
        s = zmq_socket("PULL")
        s.bind(address)
        return s.recv

    return sender, receiver, []


def collect(reports, pause, now):
    """One byte of every report in order of arrival; the lowest number first where several wait."""
    log, ends = [], dict(reports)
    poller = select.poll()
    for fd in ends:
        poller.register(fd, select.POLLIN)
    while ends:
        fd = min((f for f, _ in poller.poll()), key=ends.__getitem__)
        if os.read(fd, 1):
            log.append([1000 + ends[fd], now()])
            time.sleep(pause / 1e6)
        else:
            poller.unregister(fd)
            del ends[fd]
    return log


def live(me, world, channels, reports, go, start, out):
    """One process, from its connections to its log."""
    def now():
        return round((time.monotonic() - start) * 1e6)

    program = world["programs"][me]
    for i, (r, w) in enumerate(reports):
        if me != 0:
            os.close(r)
        if i != me:
            os.close(w)
    senders = {x: channels[x][0]() for op, x in program if op == "send"}
    receivers = {x: channels[x][1]() for op, x in program if op == "recv"}
    os.read(go, 1)
    log = []
    for op, x in program:
        if op == "sleep":
            time.sleep(x / 1e6)
        elif op == "send":
            senders[x](b"m")
        elif op == "report":
            os.write(reports[me][1], b"r")
        else:
            assert receivers[x]() == b"m"
            log.append([x, now()])
    os.close(reports[me][1])
    if me == 0:
        log += collect([(r, i) for i, (r, _) in enumerate(reports) if i], world["pause"], now)
    with open(out, "w") as f:
        json.dump(log, f)
    if "zmq" in world["channels"]:
        import zmq

        zmq.Context.instance().destroy(linger=-1)


def play(world):
    with tempfile.TemporaryDirectory() as folder:
        channels = [open_channel(kind, i, folder) for i, kind in enumerate(world["channels"])]
        reports = [os.pipe() for _ in world["programs"]]
        outs = [f"{folder}/log{i}" for i in range(len(reports))]
        go, starter = os.pipe()
        start = time.monotonic() + 1  # all are connected and wait by then
        children = []
        for me in range(len(reports)):
            pid = os.fork()
            if pid == 0:
                os.close(starter)
                live(me, world, channels, reports, go, start, outs[me])
                os._exit(0)
            children.append(pid)
        for fd in [go, *(e for pair in reports for e in pair)]:
            os.close(fd)
        for end in (e for c in channels for e in c[2]):
            os.close(end) if isinstance(end, int) else end.close()
        time.sleep(start - time.monotonic())
        os.close(starter)
        for pid in children:
            if os.waitpid(pid, 0)[1]:
                raise SystemExit("a process of the world failed")
        return [json.loads(pathlib.Path(o).read_text()) for o in outs]


if __name__ == "__main__":
    print(json.dumps([play(world) for world in json.loads(pathlib.Path(sys.argv[1]).read_text())]))
