#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""manuals.py options PROGRAM PAGE | commands PROGRAM PAGE... | example PAGE - what --help says against a manual page; the program that
a page has as its example, as C.

options: what PROGRAM --help lists and what PAGE has as heads of paragraphs (.TP) are the same options. commands: the same for each
command of PROGRAM, which one of the pages describes under .SS NAME, or in its SYNOPSIS; options of several commands may stand in
OPTIONS of their page. A SYNOPSIS has what --help calls the arguments. The first page names all commands and all pages. Prints what
differs; exit status 1 then.
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


def arguments_in_help(text):
    """MODEL, TIME: the words of the usage lines that stand for something."""
    usage = re.match(r"Usage:.*\n(?: {4,}.*\n)*", text).group(0)
    return set(re.findall(r"\b[A-Z]{2,}\b", usage))


class Page:
    def __init__(self, path, name):
        self.path, self.text, self.name = path, read(path), name
        self.own = re.sub(r"\.1$", "", os.path.basename(path)).removeprefix(f"{name}-")
        self.is_main = self.own == name
        synopsis = re.split(r"^\.br\n", section(self.text, "SH", "SYNOPSIS") or "", flags=re.M)
        self.synopsis = [" ".join(plain(line) for line in part.splitlines()) for part in synopsis]

    def parts(self, command):
        """What it has under .SS COMMAND; without that, all of it where it is about nothing else. None: it is not about COMMAND."""
        found = section(self.text, "SS", command)
        if found is not None or self.is_main or not self.synopsis_of(command):
            return found
        is_alone = all(re.search(rf"^ *{self.name} {command}\b", part) for part in self.synopsis)
        return self.text if is_alone else ""

    def synopsis_of(self, command):
        return "\n".join(part for part in self.synopsis if re.search(rf"^ *{self.name}\b.*\b{command}\b", part))

    def shared(self):
        """Its OPTIONS; those of the main page are all commands'."""
        return options_in_page(self.general())

    def general(self):
        return "" if self.is_main else section(self.text, "SH", "OPTIONS") or ""


def check_command(command, in_help, pages, name):
    """The pages that have it must say all, and no more."""
    about = [page for page in pages if page.parts(command) is not None]
    if not about:
        yield f"{name} {command}: no page has a section of it"
    own = set().union(*(options_in_page(page.parts(command)) for page in about))
    shared = set().union(*(page.shared() for page in about))
    options = options_in_help(in_help)
    yield from differences(f"{name} {command}", options, own | (shared & options))
    words = " ".join(page.synopsis_of(command) + plain(page.general()) for page in about)
    for word in sorted(arguments_in_help(in_help)):
        if not re.search(rf"\b{word}\b", words):
            yield f"{name} {command}: {word} of --help is in no SYNOPSIS and no OPTIONS"
    if not pages[0].synopsis_of(command):
        yield f"{name} {command}: {pages[0].path} does not have it in its SYNOPSIS"


def check_commands(program, *paths):
    """The first page is the program's, the others are of commands; links to them are the same page."""
    name, general = os.path.basename(program), help_of(program)
    pages = [Page(path, name) for path in paths if not os.path.islink(path)]
    main = pages[0]
    yield from differences(name, options_in_help(general), options_in_page(section(main.text, "SH", "OPTIONS")))
    helps = {command: help_of(program, command) for command in commands_in_help(general)}
    for command, text in helps.items():
        yield from check_command(command, text, pages, name)
    for page in pages:
        for command in re.findall(r"^\.SS (\S+)$", section(page.text, "SH", "COMMANDS") or "", re.M):
            if command not in helps:
                yield f"{name} {command}: it is in {page.path}, not in --help"
        described = [text for command, text in helps.items() if page.parts(command) is not None]
        for option in sorted(page.shared() - set().union(*map(options_in_help, described))):
            yield f"{page.path}: {option} is in OPTIONS, and no command of the page takes it"
        if not page.is_main and not re.search(rf"{name}-{page.own} *\(1\)", plain(section(main.text, "SH", "SEE ALSO"))):
            yield f"{main.path}: SEE ALSO does not name {page.path}"


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
