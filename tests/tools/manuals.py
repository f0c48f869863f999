#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""manuals.py options PROGRAM PAGE | commands PROGRAM PAGE... | example PAGE - what --help says against a manual page; the program that
a page has as its example, as C.

options: what PROGRAM --help lists and what PAGE has as heads of paragraphs (.TP) are the same options. commands: the same for each
command of PROGRAM, which PAGE describes under .SS NAME, or a page PROGRAM-NAME.1 beside it. Prints what differs; exit status 1 then.
"""
import os
import re
import subprocess
import sys

OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*|-[A-Za-z])(?![\w-])")


def help_of(*command):
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=environment).stdout


def options_in_help(text):
    """Those at the beginning of a line, up to the two blanks before what they are for."""
    heads = re.findall(r"^ +(-.*?)(?:  |$)", text, re.M)
    return {option for head in heads for option in OPTION.findall(head)}


def plain(roff):
    """Without fonts and quotes: .BR \\-j ", " \\-\\-json is "-j , --json"."""
    text = re.sub(r"\\f.", "", roff).replace("\\-", "-").replace("\\ ", " ").replace("\\&", "").replace('"', "")
    return re.sub(r"^\.(B|I|BR|BI|RB|IR|RI|IB)\s+", "", text)


def options_in_page(text):
    """A head is the line after .TP, or the first column of a table, where that is bold."""
    heads = re.findall(r"^\.T[PQ].*\n(.*)", text, re.M) + re.findall(r"^(\\fB\\-.*?)\t", text, re.M)
    return {option for head in heads for option in OPTION.findall(plain(head)) if plain(head).startswith("-")}


def section(text, kind, name):
    found = re.search(rf"^\.{kind} \"?{re.escape(name)}\"?\n(.*?)(?=^\.{'SH' if kind == 'SH' else 'S[HS]'} |\Z)", text, re.M | re.S)
    return found.group(1) if found else None


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def differences(what, in_help, in_page):
    for option in sorted(in_help - in_page):
        yield f"{what}: {option} is in --help, not in the page"
    for option in sorted(in_page - in_help):
        yield f"{what}: {option} is in the page, not in --help"


def check_options(program, page):
    text = re.sub(r"^\.SH (EXAMPLES|ENVIRONMENT|FILES)\n.*?(?=^\.SH |\Z)", "", read(page), flags=re.M | re.S)
    yield from differences(os.path.basename(program), options_in_help(help_of(program)), options_in_page(text))


def commands_in_help(text):
    return re.findall(r"^  ([a-z]+) {2,}", text, re.M)


def check_commands(program, page):
    text, name, general = read(page), os.path.basename(program), help_of(program)
    described = section(text, "SH", "COMMANDS")
    yield from differences(name, options_in_help(general), options_in_page(section(text, "SH", "OPTIONS")))
    for command in commands_in_help(general):
        own_page = os.path.join(os.path.dirname(page), f"{name}-{command}.1")
        part = section(described, "SS", command)
        if part is None:
            yield f"{name} {command}: {page} has no section of it"
            continue
        if os.path.exists(own_page):
            part = read(own_page)
            if not re.search(rf"{name}\\?-{command} *\(1\)", plain(text)):
                yield f"{name} {command}: {page} does not name {own_page}"
        yield from differences(f"{name} {command}", options_in_help(help_of(program, command)), options_in_page(part))
    for command in re.findall(r"^\.SS (\S+)$", described, re.M):
        if command not in commands_in_help(general):
            yield f"{name} {command}: it is in the page, not in --help"


def example(page):
    """All that stands between .nf and .fi in EXAMPLES."""
    text = section(read(page), "SH", "EXAMPLES")
    if text is None:
        sys.exit(f"{page}: no EXAMPLES")
    code = "".join(re.findall(r"^\.nf\n(.*?)^\.fi$", text, re.M | re.S))
    for escape, character in (("\\&", ""), ("\\-", "-"), ("\\(aq", "'"), ("\\e", "\\")):
        code = code.replace(escape, character)
    return code


def main():
    what, *words = sys.argv[1:]
    if what == "example":
        print(example(words[0]), end="")
        return 0
    faults = list(check_options(*words) if what == "options" else check_commands(*words))
    print("\n".join(faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
