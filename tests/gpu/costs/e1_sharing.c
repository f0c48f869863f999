/* SPDX-License-Identifier: Apache-2.0 */
/* e1_sharing.c - E1: what the device can, and whether another process can map its memory by a descriptor at all. */
#include "shm/device/slab.h"
#include "tests/gpu/costs/costs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	CUdevice_attribute attribute;
} asked[] = {
	{ "E1 virtual memory management", CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED },
	{ "E1 export as file descriptor", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED },
	{ "E1 64-bit stream memory operations", CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS },
	{ "E1 read-only registration of host memory", CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED },
	{ "E1 multiprocessors", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT },
};

static void attributes(void)
{
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		int value = 0;
		CUresult result = gpu.driver.device_attribute(&value, asked[i].attribute, gpu.device);

		if (result)
			row_error(asked[i].name, result);
		else
			row(asked[i].name, value, "");
	}
}

/* Memory that another process maps by its descriptor, and both write. */
static void share(const struct peer *peer)
{
	const char *name = "E1 bytes there and back through another process";
	struct inf_slab slab;
	void *memory = NULL;
	uint8_t *pinned;
	CUresult result;
	int fd;

	TRY(name, host_alloc(&memory, PAGE));
	pinned = memory;
	result = inf_slab_make(&gpu.driver, gpu.device, 2 * MIB, &slab, &fd);
	if (result) {
		row_error(name, result);
		gpu.driver.host_free(memory);
		return;
	}
	memset(pinned, 41, 16);
	if (!gpu.driver.copy_in(slab.address, pinned, 16, gpu.stream) && !gpu.driver.stream_synchronize(gpu.stream) &&
	    !say(peer->socket_fd, 'S', fd, slab.bytes) && peer_says_yes(peer) &&
	    !gpu.driver.copy_out(pinned, slab.address, 16, gpu.stream) && !gpu.driver.stream_synchronize(gpu.stream))
		row(name, pinned[0] == 42, "");
	else
		row(name, 0, "");
	close(fd);
	inf_slab_unmap(&gpu.driver, &slab);
	gpu.driver.host_free(memory);
}

void e1_sharing(void)
{
	struct peer peer;

	attributes();
	if (!peer_new("E1 a second process", &peer))
		return;
	share(&peer);
	peer_end(&peer);
}

/* Which device this is. A driver that was named by hand is a GPU's only where it is called as NVIDIA's are. */
void device_facts(void)
{
	const char *library = getenv("INF_CUDA_LIBRARY"), *base = library ? strrchr(library, '/') : NULL;
	char uuid[INF_UUID_TEXT_BYTES], model[64];
	CUuuid bytes;

	TRY("the device", device_uuid(&bytes, gpu.device));
	TRY("the device", device_name(model, sizeof(model), gpu.device));
	inf_driver_uuid_text(&bytes, uuid);
	base = base ? base + 1 : library;
	printf("{\"device\": \"%s\", \"uuid\": \"%s\", \"cuda\": %d, \"software\": %s}\n", model, uuid, gpu.driver.version,
	       base && *base && strncmp(base, "libcuda.so", 10) ? "true" : "false");
}
