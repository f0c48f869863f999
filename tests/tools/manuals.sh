#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# manuals.sh - each manual page is one that mandoc has nothing to say about; what --help lists is what the page has, option by option
# and command by command; each example of a page of section 3 compiles with the public headers alone, and runs where it is a program.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
manuals() { "$PY" -I tests/tools/manuals.py "$@"; }

pages=(client/man/* broker/man/* tools/*/man/*)
if command -v mandoc >/dev/null; then
	silent() { ! mandoc -Tlint "$1" 2>&1 | grep .; }
	for page in "${pages[@]}"; do check "mandoc: $page" silent "$page"; done
else
	skip "mandoc" "not installed"
fi
named() { sed -n '/^\.SH NAME/,/^\.SH SYNOPSIS/p' "$1" | sed 's/\\-/-/g' | tr ', ' '\n\n' | grep -qx -- "$(basename "${1%.*}")"; }
for page in "${pages[@]}"; do check "its NAME has its name: $page" named "$page"; done

# --- against --help -------------------------------------------------------------------------------------------------

check "--help and page: shmctl, all commands" manuals commands "$BUILD/shmctl" tools/shmctl/man/shmctl{,-*}.1
check "--help and page: infbroker" manuals options "$BUILD/infbroker" broker/man/infbroker.8
check "--help and page: infbroker-executor" manuals options "$BUILD/infbroker-executor" broker/man/infbroker-executor.8
check "--help and page: infbench" manuals options "$BUILD/infbench" tools/infbench/man/infbench.1
check "--help and page: infclassify" manuals options "$BUILD/infclassify" tools/infclassify/man/infclassify.1
# Would it be found?
cp -P tools/shmctl/man/*.1 "$RUN"
sed -i '/^\.SS version$/d' "$RUN/shmctl.1"
broken=("$PY" -I tests/tools/manuals.py commands "$BUILD/shmctl" "$RUN"/shmctl{,-*}.1)
says "a command that the pages lack" 1 'shmctl version: no page has a section of it' "${broken[@]}"
sed -i '/^\.BI "\\-s, \\-\\-session /,/^\.TP/d; /^\.IR SESSION \]$/d' "$RUN/shmctl-trace.1"
sed -i '/^\.BR \\-s ", " \\-\\-session /,/^\.TP/d' "$RUN/shmctl-kernel.1" # trace's, too
says "an option that a page of commands lacks" 1 'shmctl trace: --session is in --help, not in the page' "${broken[@]}"
says "an argument that it lacks" 1 'shmctl trace: SESSION of --help is in no SYNOPSIS and no OPTIONS' "${broken[@]}"
sed -i '/^\.BR shmctl\\-operate (1),$/d' "$RUN/shmctl.1"
says "a page that SEE ALSO lacks" 1 'SEE ALSO does not name .*/shmctl-operate.1' "${broken[@]}"
printf '.SH OPTIONS\n.TP\n.B \\-\\-frob\nFrobs.\n' >>"$RUN/shmctl-operate.1"
says "an option that no command of a page takes" 1 'shmctl-operate.1: --frob is in OPTIONS, and no command of the page takes it' "${broken[@]}"
sed '/^\.B \\-\\-builtin$/d' broker/man/infbroker.8 >"$RUN/infbroker.8"
says "an option that a page lacks" 1 'infbroker: --builtin is in --help, not in the page' "$PY" -I tests/tools/manuals.py options "$BUILD/infbroker" "$RUN/infbroker.8"
printf '.SH OPTIONS\n.TP\n.B \\-\\-frob\nFrobs.\n' >>"$RUN/infbroker.8"
says "an option that there is not" 1 'infbroker: --frob is in the page, not in --help' "$PY" -I tests/tools/manuals.py options "$BUILD/infbroker" "$RUN/infbroker.8"

# --- examples -------------------------------------------------------------------------------------------------------

mkdir -p "$RUN/include/inf"
cp include/inf/{client,device,types,version}.h "$RUN/include/inf"
compile() { # NAME: to an object; what is not used here is not wrong
	"${CC:-gcc}" -std=gnu17 -Wall -Wextra -Wshadow -Wconversion -Werror -I"$RUN/include" -c -o "$RUN/$1.o" "$RUN/$1.c"
}
n_run=0
broker_start --builtin || { not_ok "start"; finish; }
for page in client/man/*.3; do
	[ ! -L "$page" ] || continue # another name of one
	name=$(basename "$page" .3)
	manuals example "$page" >"$RUN/$name.c" || { not_ok "an example: $page" "none"; continue; }
	check "its example compiles: $page" compile "$name"
	grep -q '^int main' "$RUN/$name.c" || continue
	check "it links: $page" "${CC:-gcc}" -o "$RUN/$name" "$RUN/$name.o" -L"$BUILD" -linfclient -Wl,-rpath,"$(realpath "$BUILD")"
	says "it runs: $page" 0 . "$RUN/$name"
	n_run=$((n_run + 1))
done
check "some were programs" [ $n_run -ge 3 ]
sed 's/inf_wait(/inf_weight(/' "$RUN/inf_open.c" >"$RUN/wrong.c"
check "one that is wrong does not compile" bash -c "! '${CC:-gcc}' -std=gnu17 -Wall -Werror -I'$RUN/include' -c -o '$RUN/wrong.o' '$RUN/wrong.c'"

# The walk-through of client.h and that of libinfclient(7) make the same calls.
calls() { grep -oE '\binf_[a-z_]+\(' | tr '\n' ' '; }
in_header=$(sed -n '/^ \*	inf_open(/,/^ \*	inf_close(/p' include/inf/client.h | calls)
in_page=$(sed -n '/^inf_open(/,/^inf_close(/p' client/man/libinfclient.7 | calls)
check "client.h and libinfclient(7) walk the same way" [ -n "$in_header" -a "$in_header" = "$in_page" ]
finish
