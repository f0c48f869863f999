/* SPDX-License-Identifier: Apache-2.0 */
/* version.h - the one place the release number is written; Makefile, map and .pc are checked against it. */
#ifndef INF_VERSION_H
#define INF_VERSION_H

#define INF_VERSION_MAJOR 0
#define INF_VERSION_MINOR 1
#define INF_VERSION_PATCH 0
#define INF_VERSION_STRING "0.1.0"

#endif /* INF_VERSION_H */
