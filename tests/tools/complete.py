#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""complete.py SHELL SCRIPT LINE - types LINE and a tab into a shell on a terminal that has sourced SCRIPT; prints what becomes of it.

Where several words fit, a second tab lists them; the list is printed then. LINE is read from the shell's own buffer, for which
Ctrl-G is bound: what the terminal shows is for people.
"""
import os
import pty
import re
import select
import subprocess
import sys
import time

SETUP = {
    # A mark before and after whatever is answered: prompts and echoes lie outside.
    "bash": r"""PS1=; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; bind 'set completion-query-items 0'
bind 'set page-completions off'; bind 'set show-all-if-ambiguous on'; . SCRIPT
show() { printf '\n<<%s>>\n' "$READLINE_LINE"; READLINE_LINE=; READLINE_POINT=0; }; bind -x '"\C-g":show'; printf '<%s>\n' ready
""",
    "zsh": r"""PS1=; unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; zstyle ':completion:*' menu no
zstyle ':completion:*' verbose no; setopt no_beep no_always_last_prompt; bindkey -e; LISTMAX=0; . SCRIPT
show() { printf '\n<<%s>>\n' "$BUFFER"; BUFFER=; }; zle -N show; bindkey '^G' show; printf '<%s>\n' ready
""",
}
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


def read_until(fd, mark, seconds=20):
    text, until = "", time.monotonic() + seconds
    while not re.search(mark, text):
        if time.monotonic() > until or not select.select([fd], [], [], until - time.monotonic())[0]:
            sys.exit(f"{mark} does not come: {text!r}")
        text += os.read(fd, 65536).decode(errors="replace")
    return text


def on_terminal(shell, script, line):
    master, slave = pty.openpty()
    environment = dict(os.environ, TERM="dumb", COLUMNS="200", HISTFILE="/dev/null")
    child = subprocess.Popen(START[shell], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    try:
        os.write(master, SETUP[shell].replace("SCRIPT", script).encode())
        read_until(master, "<ready>")
        os.write(master, line.encode() + b"\t\t\x07")
        text = read_until(master, "<<.*>>")
    finally:
        child.kill()
        child.wait()
    listed, completed = re.search(r"(?s)(.*)<<(.*)>>", text).groups()
    print(completed.rstrip())
    print(re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", listed)))


def main():
    shell, script, line = sys.argv[1:]
    if shell == "fish":
        subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"], check=True)
    else:
        on_terminal(shell, script, line)


if __name__ == "__main__":
    main()
