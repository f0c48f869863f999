/* SPDX-License-Identifier: Apache-2.0 */
/* notify.h - sd_notify(3)'s protocol in 20 lines: one datagram to $NOTIFY_SOCKET; nothing where it is unset. */
#ifndef BROKER_NOTIFY_H
#define BROKER_NOTIFY_H

/* E.g. "READY=1\nSTATUS=...". 0, or a negative errno that the caller may ignore. */
int notify_send(const char *state);

#endif /* BROKER_NOTIFY_H */
