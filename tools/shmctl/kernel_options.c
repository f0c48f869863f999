/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_options.c - what `trace --kernel` and `latency --source bpf` take. */
#include "tools/shmctl/kernel.h"
#include <string.h>

bool kernel_parse_sched(const char *text, enum kernel_sched *ret)
{
	static const char *const words[] = {
		[KERNEL_SCHED_BTF] = "btf", [KERNEL_SCHED_TRACEPOINT] = "tracepoint", [KERNEL_SCHED_NONE] = "none"
	};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(text, words[i])) {
			*ret = (enum kernel_sched)i;
			return true;
		}
	return false;
}
