/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probes.h - USDT probes on the way of a request: points that bpftrace, perf and libbpf can attach to
 * on a running release build. Provider "infbroker" in the front, "infclient" in the library.
 *
 *	infclient:submit      session, position of the first, how many
 *	infbroker:accept      session, position, model's id
 *	infbroker:dispatch    instance, position of the batch, rows
 *	infbroker:complete    session, position, status
 *	infbroker:wake	      session, lane, completions posted
 *
 * One that nobody watches is a nop (docs.kernel.org, "Uprobe-tracer"; `probe.cost` in `make bench`
 * measures it). Without <sys/sdt.h> (Debian: systemtap-sdt-dev) at build time there are none.
 */
#ifndef INF_SHM_PROBES_H
#define INF_SHM_PROBES_H

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define INF_HAS_PROBES 1
#endif
#endif

#ifdef INF_HAS_PROBES
#define INF_PROBE3(name, a, b, c) DTRACE_PROBE3(infbroker, name, a, b, c)
#define INF_CLIENT_PROBE3(name, a, b, c) DTRACE_PROBE3(infclient, name, a, b, c)
#else
#define INF_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define INF_CLIENT_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#endif

#endif /* INF_SHM_PROBES_H */
