/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probes.h - USDT probes on the way of a request: points that bpftrace, perf and libbpf can attach to
 * on a running release build. Provider "infbroker" in the front, "infclient" in the library.
 *
 *	infclient:submit     session, lane, position of the first, how many at most
 *	infbroker:dispatch   instance, position of the batch there, model's id, rows
 *	infbroker:complete   session, client's pid, lane, position, when it was accepted, status, model's id,
 *			     instance, position of the batch, how long that ran, when it was dispatched and began
 *	infclient:wake	     session, lane, position
 *
 * Four, and no more, on the way of a request; each but `wake` fires before what it tells can be seen by anybody else, so
 * that who watches knows of a request before its batch, of the batch before its end, and of the end before the client.
 * (session, lane, position) names a request from submission to wake-up; (instance, position) names the batch that it ran
 * in, the one of its last rows. A request that ended without one has instance INF_PROBE_NONE; where the front answered
 * before there was a job, so is the model's id. Times are ns, CLOCK_MONOTONIC.
 *
 * Names, order and meaning of arguments are ABI: tests/abi/probes. A new meaning is a new name.
 *
 * One that nobody watches is a nop (docs.kernel.org, "Uprobe-tracer"; `probe.cost` in `make bench`
 * measures it): the front's arguments are what is in a register or a place in memory anyway, those of one job together, so
 * that who watches may read them at once; the client's are loaded into registers. Without <sys/sdt.h> (Debian:
 * systemtap-sdt-dev) at build time there are none.
 *
 * On x86-64 it is a nop of five bytes: Linux 6.18 puts a call in its place, which costs who watches 150 ns less than a
 * breakpoint (kernel commit "uprobes/x86: Add support to optimize uprobes"). What the call pushes goes below the stack
 * pointer, where a function that calls no other may keep its variables: hence -mno-red-zone in the Makefile.
 */
#ifndef INF_SHM_PROBES_H
#define INF_SHM_PROBES_H

#include <stdint.h>

#if defined(__has_include) && !defined(INF_NO_PROBES)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define INF_HAS_PROBES 1
#if defined(__x86_64__) && defined(_SDT_NOP)
#undef _SDT_NOP
#define _SDT_NOP .4byte 0x00441f0f; .byte 0
#endif
#endif
#endif

#define INF_PROBE_NONE UINT32_MAX

#ifdef INF_HAS_PROBES
#define INF_PROBE3(name, a, b, c) DTRACE_PROBE3(infbroker, name, a, b, c)
#define INF_PROBE4(name, a, b, c, d) DTRACE_PROBE4(infbroker, name, a, b, c, d)
#define INF_PROBE12(name, a, b, c, d, e, f, g, h, i, j, k, l) \
	DTRACE_PROBE12(infbroker, name, a, b, c, d, e, f, g, h, i, j, k, l)
/* Held in a register at the probe. A load from a line that the client has at hand anyway, against 100 ns of who watches. */
#define INF_PROBE_HELD(value)                  \
	__extension__({                        \
		__typeof__(value) held = (value); \
		__asm__("" : "+r"(held));      \
		held;                          \
	})
#define INF_CLIENT_PROBE3(name, a, b, c) \
	DTRACE_PROBE3(infclient, name, INF_PROBE_HELD(a), INF_PROBE_HELD(b), INF_PROBE_HELD(c))
#define INF_CLIENT_PROBE4(name, a, b, c, d) \
	DTRACE_PROBE4(infclient, name, INF_PROBE_HELD(a), INF_PROBE_HELD(b), INF_PROBE_HELD(c), INF_PROBE_HELD(d))
#else
#define INF_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define INF_PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#define INF_PROBE12(name, a, b, c, d, e, f, g, h, i, j, k, l) \
	((void)(a), (void)(b), (void)(c), (void)(d), (void)(e), (void)(f), (void)(g), (void)(h), (void)(i), (void)(j), \
	 (void)(k), (void)(l))
#define INF_CLIENT_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define INF_CLIENT_PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

#endif /* INF_SHM_PROBES_H */
