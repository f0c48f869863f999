/* SPDX-License-Identifier: Apache-2.0 */
/* sd_notify.h - sd_notify(3)'s protocol in 20 lines: one datagram to $NOTIFY_SOCKET; nothing where it is unset. */
#ifndef BROKER_SD_NOTIFY_H
#define BROKER_SD_NOTIFY_H

/* E.g. "READY=1\nSTATUS=...". 0, or a negative errno that the caller may ignore. */
int sd_notify_send(const char *state);

#endif /* BROKER_SD_NOTIFY_H */
