"""Every kind of wait takes exactly its virtual time and next to no wall time."""

from __future__ import annotations

import subprocess

import pytest

MODES = ("free", "charged", "wall")

# name: (program that sets `took`, expected seconds)
WAITS = {
    "time.sleep": ("time.sleep(3600)", 3600),
    "event_timeout": ("threading.Event().wait(500)", 500),
    "queue_timeout": ("take(lambda: queue.Queue().get(timeout=70), queue.Empty)", 70),
    "lock_timeout": ("l = threading.Lock(); l.acquire(); l.acquire(timeout=40)", 40),
    "condition_timeout": ("c = threading.Condition(); c.acquire(); c.wait(30)", 30),
    "select": ("select.select([], [], [], 12.5)", 12.5),
    "poll": ("select.poll().poll(9000)", 9),
    "epoll": ("select.epoll().poll(8)", 8),
    "socket_timeout": ("s, o = socket.socketpair(); s.settimeout(6)\ntake(lambda: s.recv(1), OSError)", 6),
    "receive_timeout": ("s, o = socket.socketpair(); limit(s, 7.5)\ntake(lambda: s.recv(1), OSError)", 7.5),
    "accept_timeout": ("s = socket.create_server(('127.0.0.1', 0)); limit(s, 4)\ntake(s.accept, OSError)", 4),
    "data_before_receive_timeout": (
        "s, o = socket.socketpair(); limit(s, 90)\n"
        "threading.Timer(2.5, o.send, [b'x']).start(); assert s.recv(1) == b'x'", 2.5),
    "sigtimedwait": ("signal.sigtimedwait([signal.SIGUSR1], 5)", 5),
    "alarm": ("signal.signal(signal.SIGALRM, lambda *a: 0); signal.alarm(20); signal.pause()", 20),
    "itimer": ("signal.signal(signal.SIGALRM, lambda *a: 0)\n"
               "signal.setitimer(signal.ITIMER_REAL, 1.5); signal.pause()", 1.5),
    "asyncio.sleep": ("asyncio.run(asyncio.sleep(0.1))", 0.1),
    "pipeline": ("subprocess.run('sleep 10 | sleep 20; sleep 5', shell=True)", 25),
    "os.system": ("os.system('sleep 2')", 2),
    "os.popen": ("os.popen('sleep 2; echo').read()", 2),
    "empty_environment": ("subprocess.run(['/bin/sleep', '4'], env={})", 4),
    "join": ("x = threading.Thread(target=time.sleep, args=(11,)); x.start(); x.join()", 11),
    "process_pool": ("p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(3,))\n"
                     "p.start(); p.join()", 3),
    "mp_queue": ("q = multiprocessing.Queue(); take(lambda: q.get(timeout=15), queue.Empty)", 15),
    "busy_wait_on_clock": ("while time.monotonic() - t < 0.05: pass", 0.05),
    "sleep_zero_loop": ("e = threading.Timer(0.2, lambda: done.append(1)); e.start()\n"
                        "while not done: time.sleep(0)", 0.2),
}
HEAD = """
import asyncio, json, multiprocessing, os, queue, select, signal, socket, struct, subprocess, threading, time
done = []
def limit(s, seconds):
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
def take(f, error):
    try: f()
    except error: pass
t = time.monotonic()
"""
TAIL = "\nprint(json.dumps({'took': time.monotonic() - t}))"


@pytest.mark.parametrize("name", WAITS)
def test_takes_its_virtual_time_exactly(virtual, name):
    program, seconds = WAITS[name]
    run = virtual(HEAD + program + TAIL)
    late = 2e-3 if "loop" in name or "busy" in name else 1e-5
    assert run.values()["took"] == pytest.approx(seconds, abs=late)
    assert run.wall_s < 10


@pytest.mark.parametrize("mode", ["charged", "wall"])
@pytest.mark.parametrize("name", ["time.sleep", "event_timeout", "epoll", "pipeline"])
def test_other_modes_add_only_the_work(virtual, mode, name):
    program, seconds = WAITS[name]
    took = virtual(HEAD + program + TAIL, mode).values()["took"]
    assert seconds <= took < seconds + 1


@pytest.mark.parametrize("mode", MODES)
def test_sleep_of_an_hour_in_plain_c(virtual, mode):
    run = virtual(["sleep", "3600"], mode)
    assert run.code == 0 and run.wall_s < 5
    assert run.stats["virtual_s"] == pytest.approx(3600, abs=0.5)
    assert "jumps" in run.err.splitlines()[-1]


def test_a_thousand_asyncio_tasks(virtual):
    run = virtual("""
        import asyncio, json, time
        async def main():
            async def one(i):
                t = loop.time(); await asyncio.sleep(i / 10); return loop.time() - t - i / 10
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*[one(i) for i in range(1000)])
        late = asyncio.run(main())
        print(json.dumps({"late": max(late), "early": min(late)}))
    """)
    assert run.values()["late"] < 1.1e-3  # asyncio rounds up to milliseconds
    assert run.values()["early"] > -1e-4


def test_uvloop(virtual):
    pytest.importorskip("uvloop")
    run = virtual("""
        import asyncio, json, time, uvloop
        async def main():
            t = time.monotonic()
            await asyncio.gather(*[asyncio.sleep(i) for i in range(50)])
            return time.monotonic() - t
        print(json.dumps({"took": uvloop.run(main())}))
    """)
    assert run.values()["took"] == pytest.approx(49, abs=2e-3)


def test_fifty_threads_overlap(virtual):
    run = virtual(HEAD + """
threads = [threading.Thread(target=time.sleep, args=(3,)) for _ in range(50)]
[x.start() for x in threads]; [x.join() for x in threads]""" + TAIL)
    assert run.values()["took"] == pytest.approx(3, abs=1e-4)


def test_signal_cuts_a_sleep_short(virtual):
    run = virtual("""
        import json, os, signal, subprocess, time
        class Stop(Exception): pass
        def stop(*a): raise Stop
        signal.signal(signal.SIGUSR1, stop)
        subprocess.Popen(["sh", "-c", f"sleep 7; kill -USR1 {os.getpid()}"])
        t = time.monotonic()
        try: time.sleep(1000)
        except Stop: pass
        print(json.dumps({"took": time.monotonic() - t}))
    """)
    assert run.values()["took"] == pytest.approx(7, abs=1e-5)


@pytest.mark.parametrize("mode", ["free", "free --parallel", "charged"])
def test_no_signal_comes_before_the_wait_that_it_is_to_end(virtual, mode):
    """Virtual time may jump while a thread is still on its way to sleep; on one processor it often is."""
    v = virtual("""
        import json, os, signal, threading, time
        class Stop(Exception): pass
        def stop(*a): raise Stop
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        lock = threading.Lock(); lock.acquire()
        waits = {"sleep": time.sleep, "lock": lambda s: lock.acquire(timeout=s)}
        def took(wait, before):
            begin = time.monotonic()
            before()
            try: wait(9)
            except Stop: pass
            return time.monotonic() - begin
        def kill_later(): os.write(ask, b"x")
        def alarm(): signal.setitimer(signal.ITIMER_REAL, 2)
        asked, ask = os.pipe()
        if os.fork() == 0:
            os.close(ask)
            while os.read(asked, 1): time.sleep(2); os.kill(os.getppid(), signal.SIGUSR1)
            os._exit(0)
        os.close(asked)
        for number in (signal.SIGUSR1, signal.SIGALRM): signal.signal(number, stop)
        print(json.dumps({f"{how.__name__} {name}": max(took(wait, how) for _ in range(300))
                          for how in (kill_later, alarm) for name, wait in waits.items()}))
    """, *mode.split()).values()
    assert len(v) == 4 and max(v.values()) == pytest.approx(2, abs=0.05), v


@pytest.mark.parametrize("address", ["ipc://{dir}/a", "tcp://127.0.0.1:*"])
def test_zmq_between_processes(virtual, address):
    pytest.importorskip("zmq")
    run = virtual("""
        import json, os, sys, tempfile, time, zmq
        c = zmq.Context(); pull = c.socket(zmq.PULL); rep = c.socket(zmq.REP); ends = []
        for i, s in enumerate((pull, rep)):
            s.bind("ADDRESS".format(dir=tempfile.mkdtemp()))
            ends.append(s.getsockopt_string(zmq.LAST_ENDPOINT))
        if os.fork() == 0:
            c = zmq.Context(); push = c.socket(zmq.PUSH); req = c.socket(zmq.REQ)
            push.connect(ends[0]); req.connect(ends[1])
            for _ in range(50): time.sleep(0.01); push.send(b"%.9f" % time.monotonic())
            for _ in range(50): req.send(b""); req.recv()
            push.close(); req.close(); c.term(); os._exit(0)
        lag = 0
        for i in range(50):
            sent = float(pull.recv()); lag = max(lag, time.monotonic() - sent)
            if i == 0: t = time.monotonic()
        took = time.monotonic() - t; t = time.monotonic()
        for _ in range(50): rep.recv(); time.sleep(0.003); rep.send(b"")
        print(json.dumps({"push": took, "lag": lag, "rep": time.monotonic() - t}))
        os.wait()
    """.replace("ADDRESS", address))
    v = run.values()
    assert v["push"] == pytest.approx(0.49, abs=1e-5)
    assert v["rep"] == pytest.approx(0.15, abs=1e-5)
    assert 0 <= v["lag"] < 1e-6


@pytest.mark.parametrize("optimised", ["-O0", "-O2"])
def test_libzmq_reads_no_counter_of_the_processor(virtual, tmp_path, optimised):
    """Optimised code, as in most pyzmq wheels, and code that is not, as in pyzmq 26.4.0."""
    (tmp_path / "zmq.c").write_text("""
        unsigned long counter(void) {
          unsigned low, high;
          __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
          return (unsigned long)high << 32 | low;
        }
        void* zmq_ctx_new(void) { return (void*)counter; }
    """)
    (tmp_path / "main.c").write_text("""
        #include <stdio.h>
        void* zmq_ctx_new(void);
        unsigned long counter(void);
        int main(void) { zmq_ctx_new(); return printf("%lu\\n", counter()) < 0; }
    """)
    for words in (["-shared", "-fPIC", optimised, "zmq.c", "-o", "libzmq-of-a-wheel.so"],
                  ["main.c", "./libzmq-of-a-wheel.so", "-o", "main"]):
        subprocess.run(["cc", *words], check=True, cwd=tmp_path)
    run = virtual([str(tmp_path / "main")])
    assert (run.values(), run.err.count("counter")) == (0, 0), run.err


def test_a_handler_before_fork_may_wait_for_a_thread(virtual):
    """As OpenBLAS's does."""
    run = virtual("""
        import ctypes, json, os, threading, time
        go = threading.Event(); thread = threading.Thread(target=lambda: (go.wait(), time.sleep(2)))
        thread.start()
        def end(): go.set(); thread.join()
        handler = ctypes.CFUNCTYPE(None)(end)
        assert ctypes.CDLL(None).__register_atfork(handler, None, None, None) == 0
        t = time.monotonic(); pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        print(json.dumps({"took": time.monotonic() - t}))
    """)
    assert run.values()["took"] == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_spinner_that_waits_for_time_itself_comes_to_its_end(virtual, mode):
    v = virtual(HEAD + "while time.monotonic() - t < 0.5: os.sched_yield()" + TAIL, mode)
    assert v.values()["took"] == pytest.approx(0.5, rel=0.2)
    assert v.wall_s < 10


def test_free_python_locks_take_no_time(virtual):
    """The garbage collector takes locks at moments of its own: their clock reads must not show."""
    v = virtual(HEAD + """
lock = threading.Lock()
t = time.monotonic_ns()
for _ in range(100): lock.acquire(); lock.acquire(False); lock.release()
print(json.dumps(time.monotonic_ns() - t))
""")
    assert v.values() == 1  # the second of the program's own two reads


def test_charged_time_does_not_stand_for_a_thread_that_is_behind(virtual):
    """The other end of a pipe is a tenth of a second ahead; libuuid gives one id twice if time stands."""
    v = virtual(HEAD + """
import uuid
ours, theirs, back = os.pipe(), os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(ours[0], 1); os.write(back[1], b'x'); os.read(theirs[0], 1); os._exit(0)
lock = threading.Lock()
time.sleep(1)  # the child waits by then
begin = time.monotonic()
os.write(ours[1], b'x')
while time.monotonic() - begin < 0.1: pass
told = [time.monotonic_ns() for _ in range(1000)]
ids = {uuid.uuid1().int >> 64 for _ in range(500)}
behind = time.monotonic() - begin < 0.11
before = time.monotonic_ns()
for _ in range(2000): lock.acquire(); lock.release()
locks = time.monotonic_ns() - before
print(json.dumps([min(b - a for a, b in zip(told, told[1:])), len(ids), behind, locks]))
os.write(theirs[1], b'x')
""", "charged", "--wake-cost-us", "100000", "--timer-slack-us", "0", "--cold-share", "0")
    least, ids, behind, locks_ns = v.values()
    assert least >= 100 and ids == 500 and behind and locks_ns < 50_000


@pytest.mark.parametrize("mode", ["charged", "free --parallel"])
@pytest.mark.parametrize("then", ["time.sleep(10)", "os._exit(0)"], ids=["sleeps", "ends"])
def test_a_spinner_sees_what_another_wrote_before_it_waited(virtual, mode, then):
    """Gloo's buffers wait so for its own thread: found late, each costs what the next deadline is away."""
    v = virtual(
        f"""
import mmap, os, threading, time
word = mmap.mmap(-1, 1)
if os.fork() == 0:
    begin = time.thread_time()
    while time.thread_time() - begin < 0.05: pass
    word[0] = 1
    {then}
    os._exit(0)
threading.Thread(target=time.sleep, args=(10,), daemon=True).start()
begin = time.monotonic()
while not word[0]: os.sched_yield()
print(time.monotonic() - begin)
os._exit(0)
""",
        *mode.split(),
    )
    assert float(v.out) < 1
