// sends.cpp: calls that may wake somebody. They stay the kernel's; this thread's time is published first.
#include "shim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace revati::warp {
template <class... A>
static long send_like(long number, A... args) {
  if (page) publish_send();
  return ret(sys(number, long(args)...));
}
// A signal ends waits of every kind.
template <class... A>
static long signal_like(long number, pid_t process, A... args) {
  if (page) publish_signal(process);
  return ret(sys(number, process, long(args)...));
}
}  // namespace revati::warp

using namespace revati::warp;

EXPORT ssize_t write(int fd, const void* b, size_t n) { return send_like(SYS_write, fd, b, n); }
EXPORT ssize_t writev(int fd, const iovec* v, int n) { return send_like(SYS_writev, fd, v, n); }
EXPORT ssize_t sendto(int fd, const void* b, size_t n, int flags, const sockaddr* to, socklen_t length) {
  return send_like(SYS_sendto, fd, b, n, flags, to, length);
}
EXPORT ssize_t send(int fd, const void* b, size_t n, int flags) { return sendto(fd, b, n, flags, nullptr, 0); }
EXPORT ssize_t sendmsg(int fd, const msghdr* m, int flags) { return send_like(SYS_sendmsg, fd, m, flags); }
EXPORT int sendmmsg(int fd, mmsghdr* m, unsigned n, int flags) { return int(send_like(SYS_sendmmsg, fd, m, n, flags)); }
EXPORT ssize_t sendfile(int out, int in, off_t* offset, size_t n) {
  return send_like(SYS_sendfile, out, in, offset, n);
}
EXPORT int eventfd_write(int fd, eventfd_t value) { return write(fd, &value, sizeof value) == sizeof value ? 0 : -1; }
EXPORT int shutdown(int fd, int how) { return int(send_like(SYS_shutdown, fd, how)); }
EXPORT int close(int fd) {
  if (page) forget_timerfd(fd);
  return int(send_like(SYS_close, fd));
}
EXPORT int connect(int fd, const sockaddr* a, socklen_t n) { return int(send_like(SYS_connect, fd, a, n)); }

EXPORT int kill(pid_t pid, int signal) { return int(signal_like(SYS_kill, pid, signal)); }
EXPORT int tgkill(pid_t pid, pid_t tid, int signal) { return int(signal_like(SYS_tgkill, pid, tid, signal)); }
EXPORT int killpg(pid_t group, int signal) {
  if (group < 0) {
    errno = EINVAL;
    return -1;
  }
  return kill(-group, signal);
}
EXPORT int pthread_kill(pthread_t thread, int signal) {
  if (page) publish_signal(getpid());
  return NEXT(pthread_kill)(thread, signal);
}
EXPORT int sigqueue(pid_t pid, int signal, const sigval value) {
  if (page) publish_signal(pid);
  return NEXT(sigqueue)(pid, signal, value);
}
EXPORT int pthread_sigqueue(pthread_t thread, int signal, const sigval value) {
  if (page) publish_signal(getpid());
  return NEXT(pthread_sigqueue)(thread, signal, value);
}

// Delayed acknowledgements are real time: a small write behind another would wait 40 real milliseconds.
EXPORT int socket(int domain, int type, int protocol) {
  int fd = int(ret(sys(SYS_socket, domain, type, protocol)));
  bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM;
  if (page && fd >= 0 && tcp) {
    int on = 1;
    sys(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, long(&on), sizeof on);
  }
  return fd;
}
