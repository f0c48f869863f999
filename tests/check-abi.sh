#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check-abi.sh - what libinfclient exports is what tests/abi/libinfclient.symbols says, what client.h and device.h declare and what
# has a man page; it needs libc alone, and the front libc and liburing alone. The USDT probes of both are what tests/abi/probes
# and infbroker(8) say: provider, name, number of arguments. Rewrite the goldens with: check-abi.sh --write
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
golden=tests/abi/libinfclient.symbols
probes=tests/abi/probes
passed=0 failed=0 skipped=0

same() { # NAME FILE FILE
	if diff -u "$2" "$3"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $1"; fi
}
exported() { nm -D --defined-only --with-symbol-versions "$BUILD/libinfclient.so" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort; }
declared() { # one name per INF_EXPORT in client.h and device.h, also where the prototype goes over several lines
	sed -n '/^INF_EXPORT/s/.*[ *]\(inf_[a-z_]*\)(.*/\1/p' include/inf/client.h include/inf/device.h | LC_ALL=C sort
}
# "provider name arguments" of each probe; one that is compiled in at several places is one.
probed() {
	readelf -nW "$BUILD/infbroker" "$BUILD/libinfclient.so" | awk '
		$1 == "Provider:" || / Provider: / { provider = $NF }
		$1 == "Name:" { name = $2 }
		$1 == "Arguments:" { print provider, name, NF - 1 }' | LC_ALL=C sort -u
}
described() { # the table in the manual page: .TP, then .BI provider : name ( arguments )
	sed -n 's/^\.BI \(inf[a-z]*\):\([a-z_]*\) " (\(.*\))"$/\1 \2 \3/p' broker/man/infbroker.8 |
		awk '{ print $1, $2, NF - 2 }' | LC_ALL=C sort
}
needed() { ldd "$1" | awk '{ print $1 }' | sed 's/\.so.*//' | grep -vE '^(linux-vdso|/lib.*ld-linux.*|libc|lib(asan|ubsan|tsan|gcc_s|m))$' | sort; }

[ "${1-}" != --write ] || { exported >"$golden"; probed >"$probes"; exit; }
same 'exported symbols' "$golden" <(exported)
same 'every declared call is exported, nothing else' <(declared) <(exported | sed 's/@.*//')
same 'libinfclient needs libc alone' /dev/null <(needed "$BUILD/libinfclient.so")
same 'infbroker needs libc and liburing alone' <(echo liburing) <(needed "$BUILD/infbroker")
same 'every probe is in infbroker(8)' "$probes" <(described)
# What stands where each probe is. Linux makes a call of a nop of five bytes, of all others a breakpoint.
stands() {
	local file at
	for file in "$BUILD/infbroker" "$BUILD/libinfclient.so"; do
		readelf -nW "$file" | sed -n 's/^ *Location: \(0x[0-9a-f]*\),.*/\1/p' | while read -r at; do
			objdump -d --no-show-raw-insn --start-address="$at" --stop-address=$((at + 5)) "$file" | sed -n 's/^ *[0-9a-f]*:\t//p'
		done
	done | sort -u
}
if echo '#include <sys/sdt.h>' | ${CC:-cc} -E -x c - >/dev/null 2>&1; then
	same 'probes' "$probes" <(probed)
	[ "$(uname -m)" != x86_64 ] || same 'every probe is a nop of five bytes' <(echo 'nopl   0x0(%rax,%rax,1)') <(stands)
else
	skipped=1
	echo 'skip - probes: <sys/sdt.h> is not installed, there are none'
fi
for name in $(declared); do
	if [ -e "client/man/$name.3" ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "failed: client/man/$name.3 is not there"
	fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
