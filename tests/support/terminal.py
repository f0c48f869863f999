# SPDX-License-Identifier: Apache-2.0
"""terminal.py STEP... -- COMMAND... - runs a command on a terminal of its own and looks at what it does to it.

Between us and the command stands a small shell, as on any terminal: it starts the command as a job in the foreground, and sees it
stop. Steps, one after the other; the first that does not hold is named and ends with status 1:

  size:LINESxCOLUMNS  the terminal's, from here on        signal:NAME     sends it, to the command
  shows:REGEX         it comes to say that (15 s)         never:REGEX     it has not said that since the start
  key:TEXT            typed, with the escapes of Python       stops, continues
  ends:STATUS         that is its exit status, -N a signal  raw, cooked     whether keys come at once and unseen
  given-back          the terminal is as it was: modes, main screen, cursor, wrapping, plain letters
  narrow              since the last size no line was longer than that
  do:COMMAND          runs it, with sh
"""
import fcntl, os, re, select, signal, struct, subprocess, sys, termios, time

LIMIT = float(os.environ.get("TERMINAL_LIMIT", "15"))


def shell(command, orders, news):
    """The job-control shell, a session leader with the terminal as its own. Tells what happens to the job as lines."""
    os.close(orders[1]), os.close(news[0])
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    modes = termios.tcgetattr(0)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        for number in (signal.SIGTTOU, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.close(orders[0]), os.close(news[1])
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    os.write(news[1], b"job %d\n" % job)
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            os.write(news[1], b"ended %d\n" % os.waitstatus_to_exitcode(status))
            os.read(orders[0], 1)  # so that the terminal stays until it was looked at
            os._exit(0)
        os.tcsetpgrp(0, os.getpid())
        os.write(news[1], b"stopped\n")
        if not os.read(orders[0], 1):
            os._exit(0)
        termios.tcsetattr(0, termios.TCSADRAIN, modes)  # a shell has had its own meanwhile
        os.tcsetpgrp(0, job)
        os.kill(-job, signal.SIGCONT)


class Terminal:
    def __init__(self, command):
        self.orders, self.news = os.pipe(), os.pipe()
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        if os.fork() == 0:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(self.slave, fd)
            os.close(self.master), os.close(self.slave)
            shell(command, self.orders, self.news)
        os.close(self.orders[0]), os.close(self.news[1])
        self.said, self.seen, self.from_size, self.columns = b"", 0, 0, 80
        self.told = b""
        self.job = int(self.tell(rb"job (\d+)\n").group(1))

    def pump(self, seconds=0.05):
        ready, _, _ = select.select([self.master, self.news[0]], [], [], seconds)
        if self.master in ready:
            try:
                self.said += os.read(self.master, 65536)
            except OSError:
                pass
        if self.news[0] in ready:
            self.told += os.read(self.news[0], 4096)

    def tell(self, regex):
        until = time.monotonic() + LIMIT
        while not (match := re.search(regex, self.told)):
            if time.monotonic() > until:
                raise AssertionError("the job told only %r" % self.told)
            self.pump()
        self.told = self.told[match.end():]
        for _ in range(3):
            self.pump(0.01)
        return match

    def size(self, value):
        lines, self.columns = map(int, value.split("x"))
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, self.columns, 0, 0))
        self.seen = self.from_size = len(self.said)

    def shows(self, value):
        until, regex = time.monotonic() + LIMIT, re.compile(value.encode())
        while not (match := regex.search(self.said, self.seen)):
            if time.monotonic() > until:
                raise AssertionError("not shown: %s; it said %r" % (value, plain(self.said[self.seen:])[-800:]))
            self.pump()
        self.seen = match.end()

    def never(self, value):
        if re.search(value.encode(), self.said):
            raise AssertionError("it said " + value)

    def narrow(self, _):
        frames = self.said[self.from_size:].split(b"\x1b[H")[2:-1]  # the first may still have the old size
        for line in (line for frame in frames for line in re.split(rb"[\r\n]+", plain(frame))):
            if len(line.decode()) > self.columns:
                raise AssertionError("%d columns: %r" % (self.columns, line))
        if not frames:
            raise AssertionError("no picture of this size")

    def key(self, value):
        os.write(self.master, value.encode().decode("unicode_escape").encode())

    def raw(self, _):
        self.mode(False)

    def cooked(self, _):
        self.mode(True)

    def mode(self, is_cooked):
        until = time.monotonic() + LIMIT
        while is_cooked != ((termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)) == termios.ICANON | termios.ECHO):
            if time.monotonic() > until:
                raise AssertionError("the terminal is " + ("raw" if is_cooked else "cooked"))
            self.pump()

    def given_back(self, _):
        after = termios.tcgetattr(self.slave)
        if after != self.before:
            raise AssertionError("modes %r, before %r" % (after, self.before))
        for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"), (b"\x1b[?7l", b"\x1b[?7h")):
            if self.said.rfind(off) < self.said.rfind(on) or on not in self.said:
                raise AssertionError("%r is not undone" % on)
        if not plain(self.said[self.said.rfind(b"\x1b[m"):]).strip() == b"" and b"Sanitizer" not in self.said:
            raise AssertionError("something came later: %r" % self.said[-200:])


def plain(said):
    return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", said)


def main():
    split = sys.argv.index("--")
    steps, command = sys.argv[1:split], sys.argv[split + 1:]
    terminal = Terminal(command)
    try:
        for step in steps:
            word, _, value = step.partition(":")
            if word == "signal":
                os.kill(terminal.job, getattr(signal, "SIG" + value))
            elif word == "stops":
                terminal.tell(rb"stopped\n")
            elif word == "continues":
                terminal.seen = len(terminal.said)
                os.write(terminal.orders[1], b"x")
            elif word == "ends":
                status = int(terminal.tell(rb"ended (-?\d+)\n").group(1))
                if status != int(value):
                    raise AssertionError("it ended with %d; it said %r" % (status, plain(terminal.said)[-600:]))
            elif word == "do":
                subprocess.run(["sh", "-c", value], check=True)
            else:
                getattr(terminal, word.replace("-", "_"))(value)
    except AssertionError as error:
        print("%s: %s" % (step, error))
        try:
            os.kill(terminal.job, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
