/* jump.pml: the jump protocol of csrc/warp (slots.cpp, waits.cpp, timekeeper/waves.cpp), checked with spin.
 *
 *   spin -DN=2 -a jump.pml && gcc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -E -m2000000
 *   spin -DN=3 -DMOST_SENDS=2 -DJUMPS=1 -a jump.pml && ...
 *   spin -DN=2 -DMOST_SENDS=2 -DWORDS -a jump.pml && ...  (waits on words in memory, with proofs that are kept)
 *   spin -DN=2 -DMOST_SENDS=2 -DWORDS -DVOUCH -a jump.pml && ...  (waits on words that their threads vouch for)
 *   spin -DN=2 -DMOST_SENDS=2 -DDESCRIPTORS -a jump.pml && ...  (waits for descriptors, with proofs that hold while
 *                                                        the run count does)
 * Negative controls, each must report an assertion violation:
 *   spin -DN=2 -DTRUST_SLOTS -a jump.pml && ...          the slots alone are believed
 *   spin -DN=2 -DTRANSIENT_SLEEP -a jump.pml && ...      a kernel state without `off processor`
 *   spin -DN=2 -DWORDS -DCOUNT_NEVER -a jump.pml && ...  wakers do not count their wake-ups
 *   spin -DN=2 -DWORDS -DPROVE_NEVER -a jump.pml && ...  waits on words are believed without a first proof
 *   spin -DN=2 -DWORDS -DVOUCH -DCOUNT_ONCE -a jump.pml && ...  wakers count before their wake-ups alone
 *   spin -DN=2 -DWORDS -DVOUCH -DVOUCH_BLINDLY -a jump.pml && ...  threads vouch without a look at the word
 *   spin -DN=2 -DDESCRIPTORS -DWAKING_SLEEPS -a jump.pml && ...  a thread on its way to another processor is taken for
 *                                                        asleep, as /proc/<pid>/syscall says of it
 *
 * Modelled: N threads that send to each other (a counter for each receiver stands for a pipe), wait with or
 * without a deadline, are woken by the kernel (blocked -> runnable -> running), or fired by the timekeeper; the
 * order of the steps in enter_wait() and leave_wait(); a transient kernel state S while still on a processor;
 * sleeps on the slot alone, which look on for a while instead of sleeping and are never asked for; with WORDS the
 * counters of wake-ups and the proofs that hold while they stand, with VOUCH also what a thread says of its own wait,
 * while it may still be on its way to sleep; the two waves reading one thread at a time while
 * everybody moves; with DESCRIPTORS the kept proof, whose second look reads the shown state and then the run count.
 * Claim: whenever the clock jumps, no thread but those that wait for the timekeeper alone is running or runnable, and
 * no receiver waits beside a message; a thread that vouches for its wait may still be on its way to sleep.
 * Left out: signals, spinners, turns (they only restrict who runs), deaths, remote participants, charged time.
 */
#ifndef N
#define N 3
#endif
#ifndef MOST_SENDS
#define MOST_SENDS 3
#endif
#ifndef JUMPS
#define JUMPS 2
#endif

mtype = { Run, Wait, Fired };                  /* Slot::word, state */
mtype = { OnCpu, Transient, Asleep, Woken };   /* kernel: Transient shows as S, but is on a processor */

mtype slot[N] = Run;
byte generation[N];
mtype kernel[N] = OnCpu;
byte runs[N];                                  /* schedstat's count, bounded */
byte pipe[N];                                  /* messages for thread i */
byte sends;
bool alone[N];                                 /* waits on its slot and on nothing else */
#ifdef WORDS
byte group_sends[N];                           /* Page::word_sends of the word that thread i waits on */
#endif
#ifdef VOUCH
byte vouched[N], vouched_sends[N];             /* the generation that thread i vouches for; group_sends before */
#endif

/* The kernel makes a sleeper runnable when there is something for it. */
inline kernel_wake(who) {
  if
  :: kernel[who] == Asleep || kernel[who] == Transient -> kernel[who] = Woken
  :: else
  fi
}

proctype Thread(byte me) {
  byte to;
#ifdef VOUCH
  byte counted;
#endif
  do
  :: sends < MOST_SENDS ->                     /* send: the counter first, then the kernel call */
     select(to : 0 .. N - 1);
     if
     :: to != me ->
        sends++;
#ifdef WORDS
#ifndef COUNT_NEVER
        group_sends[to]++;
#endif
#endif
        atomic { pipe[to]++; kernel_wake(to) }
#ifdef VOUCH
#ifndef COUNT_ONCE
        group_sends[to]++;
#endif
#endif
     :: else
     fi
  :: true -> break
  :: true ->                                   /* sleep_until: on a processor or not, nobody asks */
     atomic { slot[me] = Wait; generation[me]++; alone[me] = true }
     atomic { slot[me] == Fired -> slot[me] = Run; generation[me]++; alone[me] = false }
  :: true ->
     if                                        /* wait_for_descriptors: look first */
     :: atomic { pipe[me] > 0 -> pipe[me]-- }
     :: else ->
        atomic { slot[me] = Wait; generation[me]++ }
#ifdef VOUCH
        counted = group_sends[me];
        if
#ifdef VOUCH_BLINDLY
        :: true ->
#else
        :: pipe[me] == 0 ->
#endif
           vouched_sends[me] = counted;
           vouched[me] = generation[me]
        :: pipe[me] > 0
        fi;
#endif
again:
        kernel[me] = Transient;                /* set_current_state(TASK_INTERRUPTIBLE) ... */
        if                                     /* ... then the kernel looks at the condition */
        :: atomic { pipe[me] > 0 || slot[me] == Fired -> kernel[me] = OnCpu }
        :: atomic { !(pipe[me] > 0 || slot[me] == Fired) ->
                    if
                    :: kernel[me] == Transient -> kernel[me] = Asleep
                    :: else
                    fi }
           atomic { kernel[me] == Woken -> kernel[me] = OnCpu; runs[me]++ }
           goto again
        fi;
        if                                     /* leave_wait */
        :: atomic { slot[me] == Wait -> slot[me] = Run; generation[me]++ }
        :: atomic { slot[me] == Fired -> slot[me] = Run; generation[me]++ }
        fi;
        if
        :: atomic { pipe[me] > 0 -> pipe[me]-- }
        :: else
        fi
     fi
  od;
  /* End: a sleep without a deadline. */
  atomic { slot[me] = Wait; generation[me]++; kernel[me] = Asleep; pipe[me] = 100 }
}

#ifdef TRANSIENT_SLEEP
#define SLEEPS(i) (kernel[i] == Asleep || kernel[i] == Transient)
#else
#define SLEEPS(i) (kernel[i] == Asleep)
#endif

#ifdef WAKING_SLEEPS
#define SHOWS_SLEEP(i) (kernel[i] != OnCpu)
#else
#define SHOWS_SLEEP(i) (kernel[i] == Asleep || kernel[i] == Transient)
#endif

#ifndef WORDS
#define PROVED(i) false
#elif defined(PROVE_NEVER)
#define PROVED(i) (seen_sends[i] == proved_sends[i])
#else
#define PROVED(i) ((proved[i] == noted[i] && proved[i] > 0 && seen_sends[i] == proved_sends[i]) || VOUCHED(i))
#endif

#ifdef VOUCH
#define VOUCHED(i) (vouched[i] == noted[i] && vouched[i] > 0 && vouched_sends[i] == seen_sends[i])
#else
#define VOUCHED(i) false
#endif
#define ON_ITS_WAY_TO_SLEEP(i) (VOUCHED(i) && kernel[i] != Woken)

proctype Timekeeper() {
  byte i, noted[N], sends_before, jumps;
  bool quiet;
#ifdef DESCRIPTORS
  bool kept;
  byte seen_runs[N], proved_runs[N], proved[N];
#endif
#ifdef WORDS
  byte seen_sends[N], proved_sends[N], proved[N];
#endif
  do
  :: jumps == JUMPS -> break
  :: else ->
     quiet = true;
     sends_before = sends;
     for (i : 0 .. N - 1) {                    /* wave 1 */
       atomic { if
       :: slot[i] == Wait -> noted[i] = generation[i]
       :: else -> quiet = false
       fi }
     }
#ifndef TRUST_SLOTS
     for (i : 0 .. N - 1) {                    /* wave 2: the kernel, then the word */
#ifdef WORDS
       seen_sends[i] = group_sends[i];
#endif
#ifdef DESCRIPTORS
       kept = false;
       if
       :: proved[i] == noted[i] && proved[i] > 0 && SHOWS_SLEEP(i) -> kept = (runs[i] == proved_runs[i])
       :: else
       fi;
       if
       :: kept -> seen_runs[i] = proved_runs[i]
       :: else -> seen_runs[i] = runs[i];
          if
          :: quiet && !alone[i] && !SLEEPS(i) -> quiet = false
          :: else
          fi
       fi
#else
       if
       :: quiet && !alone[i] && !PROVED(i) && !SLEEPS(i) -> quiet = false
       :: else
       fi
#endif
     }
     for (i : 0 .. N - 1) {
       atomic { if
       :: quiet && (slot[i] != Wait || generation[i] != noted[i]) -> quiet = false
       :: else
       fi }
     }
     if
     :: sends != sends_before -> quiet = false
     :: else
     fi;
#endif
     if
     :: quiet ->
        atomic {                               /* the claim */
          for (i : 0 .. N - 1) {
            assert(slot[i] == Wait &&
                   (alone[i] ||
                    ((kernel[i] != OnCpu && kernel[i] != Woken || ON_ITS_WAY_TO_SLEEP(i)) &&
                     (pipe[i] == 0 || pipe[i] >= 100))))
          }
#ifdef WORDS
          for (i : 0 .. N - 1) { proved[i] = noted[i]; proved_sends[i] = seen_sends[i] }
#endif
#ifdef DESCRIPTORS
          for (i : 0 .. N - 1) { proved[i] = noted[i]; proved_runs[i] = seen_runs[i] }
#endif
          jumps++
        }
        select(i : 0 .. N - 1);                /* the earliest deadline is anybody's */
        atomic { if
        :: slot[i] == Wait && pipe[i] < 100 -> slot[i] = Fired; kernel_wake(i)
        :: else
        fi }
     :: else
     fi
  od
}

init {
  byte i;
  atomic {
    for (i : 0 .. N - 1) { run Thread(i) }
    run Timekeeper()
  }
}
