/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_none.c - in the place of kernel.c where it was not built. */
#include "tools/shmctl/kernel.h"
#include <stdio.h>

#define WITHOUT "this shmctl was built without BPF (WITH_BPF=1 says what is missing)"

int kernel_trace(const struct options *options, const struct kernel_filter *filter)
{
	fputs("shmctl trace: " WITHOUT ": the broker's own trace\n", stderr);
	return kernel_requests(options, filter);
}

int kernel_latency(const struct options *options, const struct kernel_filter *filter)
{
	fputs("shmctl latency: " WITHOUT ": the broker's statistics alone\n", stderr);
	return kernel_statistics(options, filter);
}
