/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_device.c - NVIDIA's driver and device files: a must where the broker was asked for a device, else for information. */
#define _GNU_SOURCE 1
#include "shm/device/driver.h"
#include "tools/shmctl/doctor.h"
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The device files: how many, and the first that we may not use. */
static unsigned int count_nodes(char ret_closed[64])
{
	unsigned int n = 0;
	glob_t found;

	ret_closed[0] = '\0';
	if (glob("/dev/nvidia*", GLOB_NOSORT, NULL, &found))
		return 0;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		struct stat status;

		if (stat(found.gl_pathv[i], &status) < 0 || !S_ISCHR(status.st_mode))
			continue;
		n++;
		if (!ret_closed[0] && access(found.gl_pathv[i], R_OK | W_OK) < 0)
			snprintf(ret_closed, 64, "%s", found.gl_pathv[i]);
	}
	globfree(&found);
	return n;
}

static void open_driver(const struct doctor *doctor, struct doctor_answer *answer)
{
	struct inf_driver driver;
	char text[INF_DRIVER_TEXT_BYTES] = "";

	(void)doctor;
	answer->error = inf_driver_open(&driver, NULL, text);
	snprintf(answer->text, sizeof(answer->text), "%s", text);
}

static void check_asked(struct doctor *doctor, const char *asked)
{
	char device[sizeof(doctor->stats->device) + 1];
	struct doctor_answer answer;

	snprintf(device, sizeof(device), "%.*s", (int)sizeof(doctor->stats->device), doctor->stats->device);
	doctor_ask(doctor, open_driver, &answer);
	if (answer.error)
		doctor_say(doctor, "device", VERDICT_FAIL, "--device %s was asked for: %s\nmend the driver, or start infbroker with --device cpu",
			   asked, answer.text[0] ? answer.text : "the CUDA driver does not answer");
	else if (!strcmp(device, "cpu"))
		doctor_say(doctor, "device", VERDICT_FAIL,
			   "--device %s was asked for, but models run on the CPU\nthe broker's log says why; the driver works for us", asked);
	else
		doctor_say(doctor, "device", VERDICT_OK, "models run on %s", device[0] ? device : asked);
}

void doctor_device(struct doctor *doctor)
{
	char asked[sizeof(doctor->stats->device_asked) + 1] = "", closed[64];
	unsigned int n = count_nodes(closed);

	if (doctor->stats)
		snprintf(asked, sizeof(asked), "%.*s", (int)sizeof(doctor->stats->device_asked), doctor->stats->device_asked);
	if (closed[0])
		doctor_say(doctor, "nvidia", asked[0] ? VERDICT_FAIL : VERDICT_OK, "%s is closed to uid %u%s", closed, (unsigned int)geteuid(),
			   asked[0] ? "\nusermod -a -G video,render USER; in the unit: PrivateDevices=no and DeviceAllow=char-nvidia rw" : "");
	else
		doctor_say(doctor, "nvidia", VERDICT_OK, "%u device files of NVIDIA%s", n, n ? ", open to us" : "");
	if (asked[0])
		check_asked(doctor, asked);
}
